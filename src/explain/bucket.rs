//! What became of a bucket.

use super::{Explanation, Story, count, lease_now, put_back};
use crate::error::ReadError;
use crate::events::each_record;
use crate::house::House;
use crate::record::{self, Item, Record};
use crate::registry::ServiceCore;
use crate::slot::Phase;

/// Explains a bucket.
pub(crate) fn of_bucket(house: &House, core: &ServiceCore, bucket: (u64, u32)) -> Result<Explanation, ReadError> {
    let mut story = Story::new(house);
    let mut owed = 0_usize;
    let is = |service: u32, generation: u64, slot: u32| service == core.id && (generation, slot) == bucket;
    each_record(house, |at, record| {
        match record {
            Record::Leased(of) if is(of.service, of.generation, of.slot) => {
                owed = of.ranks.len();
                let who = story.client(of.client);
                story.tell(at, format!("leased to {who}: {}", count(owed, "subject")));
            }
            Record::Reported(of) if is(of.service, of.generation, of.slot) => {
                let reports = record::list::<Item<'_>>("item", of.items).count();
                owed = owed.saturating_sub(reports);
                let who = story.client(of.client);
                story.tell(at, format!("{who} reported on {}, {owed} left", count(reports, "subject")));
            }
            Record::Late(of) if is(of.service, of.generation, of.slot) => {
                let reports = record::list::<Item<'_>>("item", of.items).count();
                let who = story.client(of.client);
                story.tell(
                    at,
                    format!("{who} reported late on {}, which were open elsewhere", count(reports, "subject")),
                );
            }
            Record::Conflict(of) if is(of.service, of.generation, of.slot) => {
                let reports = record::list::<Item<'_>>("item", of.items).count();
                let who = story.client(of.client);
                story.tell(at, format!("{who} contradicted {}: kept as evidence", count(reports, "earlier report")));
            }
            Record::Released(of) if is(of.service, of.generation, of.slot) => {
                story.tell(at, put_back(&of));
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(story.end(bucket_now(house, core, bucket)))
}

fn bucket_now(house: &House, core: &ServiceCore, (generation, slot): (u64, u32)) -> String {
    let live = core.live();
    let found = live.iter().find(|pool| pool.generation == generation);
    let found = found.and_then(|pool| Some((pool, pool.index_of(slot)?)));
    let Some((pool, index)) = found else {
        return "not in memory: over for long, or never formed".to_owned();
    };
    let Some(slot) = pool.slot(index) else { return "not in memory".to_owned() };
    let seen = slot.snapshot();
    match seen.phase() {
        Phase::Ready => format!("ready to be claimed: {}", count(slot.len(), "subject")),
        Phase::Leased | Phase::Dead => {
            format!("{}, {} of {} owed", lease_now(house, pool, seen), slot.open().count(), slot.len())
        }
        Phase::Released => "over: what was left was put back".to_owned(),
        Phase::Done => "over: every subject was reported on".to_owned(),
    }
}
