//! Why something is as it is: what the journal tells of one subject, bucket or client, in plain words.

mod bucket;
mod client;
mod subject;

use std::collections::VecDeque;
use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;

use crate::apply::At;
use crate::clock::utc;
use crate::house::House;
use crate::people::People;
use crate::pool::Pool;
use crate::record::Released;
use crate::slot::{Cause, Phase, Snapshot};

pub(crate) use self::bucket::of_bucket;
pub(crate) use self::client::of_client;
pub(crate) use self::subject::of_subject;

/// What led to something, step by step, and how it is now. Prints as lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Explanation {
    /// The newest steps (`Limits::explained_steps`), oldest first.
    pub steps: Vec<Explained>,
    /// Steps before those, left out.
    pub earlier: u64,
    /// How it is now, as far as memory and store tell.
    pub now: String,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Explained {
    /// The journal position of the event; see [`Hub::events`](crate::Hub::events).
    pub position: u64,
    /// When it was journaled, by the wall clock.
    pub at: DateTime<Utc>,
    /// What happened, in plain words.
    pub text: String,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.earlier > 0 {
            writeln!(f, "({} earlier steps)", self.earlier)?;
        }
        for Explained { position, at, text } in &self.steps {
            writeln!(f, "{} @{position} {text}", shown(*at))?;
        }
        write!(f, "now: {}", self.now)
    }
}

fn shown(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// The steps so far.
struct Story<'a> {
    people: &'a People,
    steps: VecDeque<Explained>,
    earlier: u64,
    limit: usize,
}

impl<'a> Story<'a> {
    fn new(house: &'a House) -> Self {
        let limit = house.link.limits.explained_steps;
        Self { people: &house.people, steps: VecDeque::new(), earlier: 0, limit }
    }

    fn tell(&mut self, at: At, text: String) {
        self.steps.push_back(Explained { position: at.position, at: utc(at.time.wall_ms), text });
        if self.steps.len() > self.limit {
            self.steps.pop_front();
            self.earlier += 1;
        }
    }

    fn client(&self, id: u64) -> String {
        client_name(self.people, id)
    }

    fn end(self, now: String) -> Explanation {
        Explanation { steps: self.steps.into(), earlier: self.earlier, now }
    }
}

fn client_name(people: &People, id: u64) -> String {
    match people.client(id) {
        Some(client) => format!("client {id} ({})", client.name),
        None => format!("client {id}"),
    }
}

fn why(cause: Cause) -> &'static str {
    match cause {
        Cause::Client => "the client gave it back",
        Cause::Expired => "the client gave no report in time",
        Cause::Deregistered => "the client was deregistered",
        Cause::Revoked => "the service was revoked, or the client suspended",
        Cause::Abandoned => "no claim took it",
    }
}

fn put_back(of: &Released) -> String {
    if of.ranks.is_empty() {
        return "over: nothing was left; another lease had some of it as well".to_owned();
    }
    format!("{} put back: {}", count(of.ranks.len(), "subject"), why(of.cause))
}

fn count(n: usize, one: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") }
}

/// 1st, 2nd, 3rd, 4th, 11th, 21st.
fn ordinal(n: u64) -> String {
    let ending = match (n % 10, n % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{n}{ending}")
}

fn count_u64(n: u64, one: &str) -> String {
    count(usize::try_from(n).unwrap_or(usize::MAX), one)
}

/// Who holds a slot, and until when.
fn lease_now(house: &House, pool: &Pool, seen: Snapshot) -> String {
    let who = house.people.seats.get(seen.owner() as usize).map_or(0, |seat| seat.client.id.value());
    let (who, clock) = (client_name(&house.people, who), &house.link.clock);
    let moment = |hub_ms: u64| shown(utc(clock.wall_at(hub_ms)));
    let at = pool.born.saturating_add(seen.time());
    match seen.phase() {
        Phase::Leased => format!("leased to {who} until {}", moment(at)),
        _ => format!("held by {who}, whose time is over; reports are taken until {}", moment(at + pool.terms.grace_ms)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinals_end_as_they_are_spoken() {
        let of = [1, 2, 3, 4, 11, 12, 13, 21, 102, 111, 1_003].map(ordinal);
        assert_eq!(of, ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "102nd", "111th", "1003rd"]);
    }
}
