//! What a client did.

use std::collections::HashMap;

use super::{Explanation, Story, count, count_u64, put_back};
use crate::apply::At;
use crate::error::ReadError;
use crate::events::each_record;
use crate::house::House;
use crate::record::{self, Item, Record, SeatState};
use crate::stats::{self, ClientStats, SeatStats};
use crate::sync::Arc;
use crate::watch::Level;

/// Explains a client.
pub(crate) fn of_client(house: &House, id: u64) -> Result<Explanation, ReadError> {
    let mut of = OfClient {
        story: Story::new(house),
        id,
        names: house.service_names(),
        seats: HashMap::new(),
        registrations: 0,
    };
    each_record(house, |at, record| {
        of.record(at, record);
        Ok(())
    })?;
    let stats = house.people.client(id).map(|client| stats::of_client(house, &client));
    Ok(of.story.end(stats.map_or_else(|| "not known".to_owned(), |stats| client_now(&stats))))
}

/// One client.
struct OfClient<'a> {
    story: Story<'a>,
    id: u64,
    names: HashMap<u32, Arc<str>>,
    seats: HashMap<u32, SeatState>,
    registrations: u32,
}

impl OfClient<'_> {
    fn record(&mut self, at: At, record: Record<'_>) {
        let items = |list| record::list::<Item<'_>>("item", list).count();
        let text = match record {
            Record::Client(of) if of.client == self.id => self.registered(of.registered, of.name),
            Record::Seat(of) if of.client == self.id => self.seat(of.service, of.state),
            Record::Level(of) if of.client == self.id => {
                format!("{}: {}", level_text(of.level, &self.name(of.service)), of.why)
            }
            Record::Leased(of) if of.client == self.id => {
                let bucket = self.bucket(of.service, of.generation, of.slot);
                format!("leased {bucket}: {}", count(of.ranks.len(), "subject"))
            }
            Record::Reported(of) if of.client == self.id => {
                let bucket = self.bucket(of.service, of.generation, of.slot);
                format!("reported on {} of {bucket}", count(items(of.items), "subject"))
            }
            Record::Late(of) if of.client == self.id => {
                let bucket = self.bucket(of.service, of.generation, of.slot);
                format!("reported late on {} of {bucket}", count(items(of.items), "subject"))
            }
            Record::Conflict(of) if of.client == self.id => {
                let bucket = self.bucket(of.service, of.generation, of.slot);
                format!("contradicted {} of {bucket}: kept as evidence", count(items(of.items), "earlier report"))
            }
            Record::Released(of) if of.client == self.id => {
                format!("of {}: {}", self.bucket(of.service, of.generation, of.slot), put_back(&of))
            }
            _ => return,
        };
        self.story.tell(at, text);
    }

    fn name(&self, service: u32) -> String {
        self.names.get(&service).map_or_else(|| format!("service {service}"), ToString::to_string)
    }

    fn bucket(&self, service: u32, generation: u64, slot: u32) -> String {
        format!("bucket {generation}/{slot} of {}", self.name(service))
    }

    fn registered(&mut self, registered: bool, name: &str) -> String {
        if !registered {
            // The record deactivates every seat, but lifts no bar.
            self.seats.retain(|_, state| *state == SeatState::Suspended);
            return "deregistered".to_owned();
        }
        self.registrations += 1;
        if self.registrations == 1 { format!("registered as {name}") } else { format!("registered again as {name}") }
    }

    fn seat(&mut self, service: u32, state: SeatState) -> String {
        let before = self.seats.insert(service, state);
        let name = self.name(service);
        match (before, state) {
            (_, SeatState::Active) => format!("activated for {name}"),
            (_, SeatState::Suspended) => format!("suspended for {name} by an administrator"),
            (Some(SeatState::Suspended), SeatState::Inactive) => {
                format!("reinstated for {name}; to be activated again")
            }
            (_, SeatState::Inactive) => format!("deactivated for {name}: idle for too long"),
        }
    }
}

fn level_text(level: Level, service: &str) -> String {
    match level {
        Level::Healthy => format!("trusted again for {service}"),
        Level::Suspect => format!("suspected for {service}"),
        Level::Quarantined => format!("quarantined for {service}, its claims are refused"),
    }
}

/// The services for which it is suspect or quarantined, and why.
fn levels_now(stats: &ClientStats) -> String {
    let unhealthy = stats.seats.iter().filter(|seat| seat.level != Level::Healthy);
    let text = |seat: &SeatStats| {
        format!("; {}: {}", level_text(seat.level, &seat.service), seat.why.as_deref().unwrap_or_default())
    };
    unhealthy.map(text).collect()
}

fn client_now(stats: &ClientStats) -> String {
    let mut faults = stats::Faults::default();
    for seat in &stats.seats {
        faults += seat.faults;
    }
    let work = &stats.work;
    let state = if stats.registered { "registered" } else { "deregistered" };
    let held = if work.buckets_held == 0 {
        "holds nothing".to_owned()
    } else {
        format!("holds {}, {} owed", count_u64(work.buckets_held, "bucket"), count_u64(work.subjects_held, "subject"))
    };
    let refused: Vec<String> = [
        (faults.claims_refused, "claims"),
        (faults.over_ask, "asks beyond the cap"),
        (faults.not_owner, "tokens of others' leases, or forged"),
        (faults.not_in_bucket, "reports on subjects not in the bucket"),
        (faults.stale, "reports on leases that were over"),
        (faults.rejected, "reports rejected by the plugin"),
        (faults.oversized, "reports too long"),
        (faults.plugin_panics, "reports that broke the plugin"),
        (faults.conflicts, "reports that contradicted earlier ones"),
    ]
    .into_iter()
    .filter(|(n, _)| *n > 0)
    .map(|(n, what)| format!("{n} {what}"))
    .collect();
    let refused = if refused.is_empty() { "nothing".to_owned() } else { refused.join(", ") };
    format!(
        "{state}; {held}; in all {} assigned, {} reported, {} put back; refused: {refused}{}",
        count_u64(work.subjects_assigned, "subject"),
        work.subjects_reported,
        work.subjects_put_back,
        levels_now(stats)
    )
}
