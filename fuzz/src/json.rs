//! Bytes are the bodies of calls by name: each answers or errs. A call's first byte says which it is, of which service, and whether the
//! body is made of the bytes that follow (`body.rs`), or is what stands there up to the end of the line.
//!
//! `TOKEN` in a body stands for the token that was given out last, `OLDER` for the first one, `FORGED` for one that nobody was given.

use commissary::services::{DmCheck, FollowerCheck};
use commissary::{Capability, Hub, Limits, ManualClock, MemoryDisk, NamedSeat, NamedService, Policy, Registration};

use super::Seen;
use super::body::{Bytes, Form, Kind, body};

/// What the corpus comes through: each call answered, and each refused that can be.
pub const STATES: &[&str] = &[
    "added",
    "not added",
    "result",
    "no result",
    "claimed",
    "not claimed",
    "submitted",
    "not submitted",
    "reported",
    "not reported",
    "renewed",
    "not renewed",
    "released",
    "not released",
    "leases",
    "rerun",
    "not rerun",
    "marked",
    "not marked",
    "deleted",
    "not deleted",
    "history",
    "no history",
    "as of",
    "not as of",
    "results by",
    "no results by",
    "unmarked",
    "no unmarked",
    "lane",
    "no lane",
];

/// Calls in one run; what follows is not read.
const CALLS_MAX: usize = 32;

struct Call {
    answered: &'static str,
    refused: &'static str,
    form: Form,
    make: fn(&mut Desk, &[u8]) -> bool,
}

const TOKEN: (&str, Kind) = ("token", Kind::Token);
const HAND_IN: Form = Form::Fields(&[TOKEN, ("reports", Kind::Reports), ("state", Kind::State)]);

const fn call(answered: &'static str, refused: &'static str, form: Form, make: fn(&mut Desk, &[u8]) -> bool) -> Call {
    Call { answered, refused, form, make }
}

/// By the low four bits of a call's first byte.
const CALLS: [Call; 16] = [
    call("added", "not added", Form::One(Kind::Keys), |desk, body| desk.service.add(body).is_ok()),
    call("result", "no result", Form::One(Kind::Key), |desk, body| desk.service.result(body).is_ok()),
    call(
        "claimed",
        "not claimed",
        Form::Fields(&[("buckets", Kind::Number), ("subjects", Kind::Number), ("time_ms", Kind::Number)]),
        Desk::claim,
    ),
    call("submitted", "not submitted", HAND_IN, |desk, body| desk.seat.submit(body).is_ok()),
    call("reported", "not reported", HAND_IN, |desk, body| desk.seat.report(body).is_ok()),
    call("renewed", "not renewed", Form::Fields(&[TOKEN]), |desk, body| desk.seat.renew(body).is_ok()),
    call("released", "not released", Form::Fields(&[TOKEN]), |desk, body| desk.seat.release(body).is_ok()),
    call("leases", "no leases", Form::Fields(&[]), |desk, _| desk.seat.leases().is_ok()),
    call("rerun", "not rerun", Form::One(Kind::Keys), |desk, body| desk.service.rerun(body).is_ok()),
    call("marked", "not marked", Form::One(Kind::Keys), |desk, body| desk.service.mark(body).is_ok()),
    call("deleted", "not deleted", Form::One(Kind::Keys), |desk, body| desk.service.delete(body).is_ok()),
    call("history", "no history", Form::One(Kind::Key), |desk, body| desk.service.history(body).is_ok()),
    call("as of", "not as of", Form::Fields(&[("key", Kind::Key), ("moment", Kind::Moment)]), |desk, body| {
        desk.service.as_of(body).is_ok()
    }),
    call(
        "results by",
        "no results by",
        Form::Fields(&[
            ("client", Kind::Number),
            ("from", Kind::Moment),
            ("to", Kind::Moment),
            ("after", Kind::Key),
            ("limit", Kind::Number),
        ]),
        |desk, body| desk.service.results_by(body).is_ok(),
    ),
    call("unmarked", "no unmarked", Form::Fields(&[("after", Kind::Key), ("limit", Kind::Number)]), |desk, body| {
        desk.service.unmarked(body).is_ok()
    }),
    call("lane", "no lane", Form::One(Kind::Lane), |desk, body| desk.service.lane(body).is_ok()),
];

/// A service found by its name, and the caller's seat at it.
struct Desk {
    service: NamedService,
    seat: NamedSeat,
    tokens: Vec<String>,
}

impl Desk {
    fn claim(&mut self, body: &[u8]) -> bool {
        let Ok(claimed) = self.seat.claim(body) else { return false };
        let leases = claimed["leases"].as_array().into_iter().flatten();
        self.tokens.extend(leases.filter_map(|lease| lease["token"].as_str().map(str::to_owned)));
        true
    }

    fn put_in(&self, body: &str) -> String {
        let (Some(first), Some(last)) = (self.tokens.first(), self.tokens.last()) else { return body.to_owned() };
        // Its last digit is of the part that nobody can know.
        let digit = if last.ends_with('0') { "1" } else { "0" };
        let forged = format!("{}{digit}", &last[..last.len() - 1]);
        body.replace("TOKEN", last).replace("OLDER", first).replace("FORGED", &forged)
    }
}

fn open() -> (Hub, [Desk; 2]) {
    // Small, as each run has a hub of its own.
    let limits = Limits { notices: 8, ..Limits::default() };
    let policy = Policy { bucket_subjects: 4, ..Policy::default() };
    let builder = Hub::builder().manual().clock(ManualClock::default()).seed(1).limits(limits);
    let hub = builder.open_in_memory(&MemoryDisk::new()).expect("memory opens");
    hub.register(DmCheck::with(policy.clone())).expect("a new service registers");
    hub.register(FollowerCheck::with(policy)).expect("a new service registers");
    let client = hub.register_client(&Registration::new(9, "caller")).expect("a new client registers").client;
    let desks = ["dm-check", "follower-check"].map(|name| {
        let service = hub.service(name).expect("it is registered");
        let seat = service.activate(&client, Capability::default()).expect("it is active");
        drop(service.add(b"[1,2,3,4,5,6,7,8]").expect("numbers are subjects"));
        Desk { service, seat, tokens: Vec::new() }
    });
    hub.tick();
    (hub, desks)
}

pub fn run(bytes: &[u8], seen: &mut Seen) {
    let (hub, mut desks) = open();
    for desk in &mut desks {
        assert!(desk.claim(b"{}"), "an empty ask is for one bucket");
    }
    let mut bytes = Bytes(bytes);
    for _ in 0..CALLS_MAX {
        let Some(head) = bytes.byte() else { break };
        if head & 0x30 == 0 {
            hub.tick();
        }
        let desk = &mut desks[usize::from(head >> 6 & 1)];
        let Call { answered, refused, form, make } = &CALLS[usize::from(head & 15)];
        let answer = if head & 0x80 == 0x80 {
            make(desk, desk.put_in(&body(&mut bytes, *form)).as_bytes())
        } else {
            let line = bytes.line();
            match std::str::from_utf8(line) {
                Ok(text) => make(desk, desk.put_in(text).as_bytes()),
                Err(_) => make(desk, line),
            }
        };
        seen.insert(if answer { answered } else { refused });
    }
    hub.tick();
    let stats = hub.stats();
    assert!(stats.work.adds_up(), "{:?}", stats.work);
    assert!(hub.recount().expect("memory reads").is_balanced(), "what is stored is what was counted");
    hub.health().expect("no body breaks the hub");
}
