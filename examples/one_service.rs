//! A service of one's own: define the plugin, register it, add subjects, let a client work.
//!
//! ```text
//! cargo run --example one_service
//! ```
#![expect(clippy::print_stdout, reason = "an example talks to its user")]

use std::error::Error;
use std::time::Duration;

use commissary::{Ask, Hub, MemoryDisk, Policy, Registration, Reporter, Service, Verdict};

/// How many letters does a word have? A subject is a word, a report is a number.
struct Letters;

impl Service for Letters {
    type Subject = String;
    type Report = usize;

    fn id(&self) -> &'static str {
        "letters"
    }

    fn policy(&self) -> Policy {
        Policy::default()
    }

    /// Counting is the client's work; here only what cannot be is turned away.
    fn judge(&self, word: &String, letters: &usize, _reporter: Reporter) -> Verdict {
        if *letters <= word.len() { Verdict::Accept } else { Verdict::Reject("more letters than bytes".to_owned()) }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    // In memory; `Hub::open(directory)` keeps everything.
    let hub = Hub::builder().open_in_memory(&MemoryDisk::new())?;
    let letters = hub.register(Letters)?;
    letters.add_all("a queue forms and every basket was packed before".split(' ').map(str::to_owned))?;

    let client = hub.register_client(&Registration::new(42, "alice"))?.client;
    let seat = client.activate(&letters)?;
    while letters.stats().subjects_pending() > 0 {
        for lease in seat.claim(Ask::buckets(2))?.leased().into_iter().flatten() {
            let answers = lease.subjects().map(|word| (word.clone(), word.chars().count()));
            lease.submit(answers)?.ticket.wait_visible()?;
        }
        let _ready = seat.wait_ready(Duration::from_millis(10));
    }

    for finding in letters.results(None, 100)?.0 {
        println!("{:<8}{}", finding.key, finding.report);
    }
    hub.close()?;
    Ok(())
}
