//! Leases survive a restart: claim, close, open again, go on by token.
//!
//! ```text
//! cargo run --example restart
//! ```
#![expect(clippy::print_stdout, reason = "an example talks to its user")]

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use commissary::services::{DmCheck, DmState};
use commissary::{Ask, Hub, LeaseToken, Registration};

fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let token = claim(directory.path())?;
    println!("the hub was closed; the client kept its token, {} characters", token.to_string().len());
    go_on(directory.path(), &token.to_string().parse()?)
}

/// Takes a bucket and reports on half of it.
fn claim(directory: &Path) -> Result<LeaseToken, Box<dyn Error>> {
    let hub = Hub::open(directory)?;
    let check = hub.register(DmCheck::default())?;
    check.add_all(1_001..=1_010)?;
    let seat = hub.register_client(&Registration::new(7, "bob"))?.client.activate(&check)?;
    let _ready = seat.wait_ready(Duration::from_secs(5));
    let mut grant = seat.claim(Ask::one())?.leased().ok_or("no bucket")?;
    let lease = grant.pop().ok_or("an empty grant")?;
    let half = lease.subjects().take(5).map(|user| (user, DmState::Open));
    let reported = lease.report(half)?;
    reported.ticket.wait_durable()?;
    println!("reported {} of {} users", reported.accepted(), lease.len());
    // Not dropped: that would give the bucket back.
    let token = lease.into_token();
    hub.close()?;
    Ok(token)
}

/// Another process, another day: the bucket is still this client's.
fn go_on(directory: &Path, token: &LeaseToken) -> Result<(), Box<dyn Error>> {
    let hub = Hub::open(directory)?;
    let check = hub.register(DmCheck::default())?;
    let seat = hub.register_client(&Registration::new(7, "bob"))?.client.activate(&check)?;
    let held = seat.leases()?;
    let lease = held.iter().find(|lease| lease.token == *token).ok_or("the lease is gone")?;
    println!("opened {} times; still owed: {:?}", hub.open_report().boots, lease.subjects);
    let rest = lease.subjects.iter().map(|user| (*user, DmState::Closed));
    seat.submit(token, rest)?.ticket.wait_visible()?;
    println!("checked {} of {} users", check.stats().subjects_done, check.stats().subjects_known);
    hub.close()?;
    Ok(())
}
