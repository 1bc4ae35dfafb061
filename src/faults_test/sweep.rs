//! Lives on a disk of which each call fails in turn.

use super::{CALLS, Fault, Faults};
use crate::faults::Call;

/// Lets calls of each kind fail, one in each life: once, and from then on. `COMMISSARY_FAULT_EVERY` sets which of a kind are taken, 1 are
/// all. Without it `samples` of a kind are, by turns once and from then on. All kinds are made but those `without`. What is looked at after
/// each is told as so many things acknowledged, all of which were there.
pub(crate) fn sweep<L>(
    home: &str,
    samples: u64,
    without: &[Call],
    live: impl Fn(Option<Fault>) -> (L, Faults),
    look: impl Fn(&str, L) -> usize,
) {
    let (life, undisturbed) = live(None);
    assert!(look("undisturbed", life) > 0 && !undisturbed.struck);
    let every = std::env::var("COMMISSARY_FAULT_EVERY").ok().map(|every| every.parse::<u64>().unwrap());
    let (mut lives, mut acknowledged, mut failed) = (0, 0, Vec::new());
    for call in CALLS {
        let made = undisturbed.made(call);
        assert_eq!(made == 0, without.contains(&call), "{home}: {call:?}: {made}");
        let step = every.unwrap_or(made.div_ceil(samples)).max(1);
        let chosen: Vec<u64> = (step.midpoint(1)..=made).step_by(usize::try_from(step).unwrap()).collect();
        for (at, nth, lasting) in (0..).zip(&chosen).flat_map(|(at, nth)| [(at, *nth, false), (at, *nth, true)]) {
            let is_sample = every.is_some() || lasting == ((call as usize + at) % 2 == 1);
            // From a disk that fails for good nothing more is to be expected: not a part of a batch either.
            if !is_sample || (call == Call::ApplyPart && lasting) {
                continue;
            }
            let (life, faults) = live(Some(Fault { call, nth, lasting }));
            let what = format!("{call:?} {nth} of {made}, {}", if lasting { "lasting" } else { "once" });
            assert!(faults.struck, "{what}");
            lives += 1;
            acknowledged += look(&what, life);
        }
        if made > 0 {
            failed.push(format!("{call:?} {} of {made}", chosen.len()));
        }
    }
    let made: u64 = CALLS.iter().map(|call| undisturbed.made(*call)).sum();
    eprintln!("{home}, calls failed: {}", failed.join(", "));
    eprintln!("{home}: {made} calls, {lives} lives, {acknowledged} acknowledged, 0 lost");
}
