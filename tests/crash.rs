//! Kills a process that works on a hub and a message log, cuts its power, and fails its disk, over and over, and checks that what it was told to be
//! durable is there.
//!
//! | variable | default | what |
//! |---|---:|---|
//! | `COMMISSARY_CRASH_ROUNDS` | 30 | kills; and as many on a device that keeps only what was synced (Linux) |
//! | `COMMISSARY_CRASH_SEED` | 7 | where their times and the work come from |
//! | `COMMISSARY_CUT_ROUNDS_EXT4` | 20 | power cuts; they take root, loop devices, ext4's tools and perl |
//! | `COMMISSARY_STRACE_CALLS` | 0 | system calls of each kind that fail; they take strace |
//!
//! Each prints one line (`--nocapture`).
#![cfg(unix)]

#[cfg(target_os = "linux")]
#[path = "support/failing_calls.rs"]
mod calls;
#[cfg(target_os = "linux")]
#[path = "support/device_shim.rs"]
mod device_shim;
#[path = "support/engine.rs"]
mod engine;
#[cfg(target_os = "linux")]
#[path = "support/image.rs"]
mod image;
#[path = "support/sender.rs"]
mod sender;
#[path = "support/toil.rs"]
mod toil;
#[path = "support/told.rs"]
mod told;

use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use commissary::Engine;
use toil::Chance;
use told::{Running, Told, check, spawn};

/// The child. Without the variables that the parent sets, nothing.
#[test]
fn child_works_until_it_is_killed() {
    toil::live();
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

/// Rounds on one hub: each opening of it reads all that the earlier ones did.
const ROUNDS_OF_A_HUB: usize = 50;

fn this_file() -> Command {
    Command::new(std::env::current_exe().unwrap())
}

/// Hears one line; true if it is an acknowledgement.
fn hear(told: &mut Told, line: &str, who: &str) -> bool {
    assert!(!line.starts_with("fault "), "{who}: {line}");
    told.hear(line);
    line.starts_with("ack ")
}

/// Lets a child work, and kills it: some time after its first acknowledgement, or before.
fn one_life(command: Command, directory: &Path, seed: u64, chance: &mut Chance, told: &mut Told) {
    let Running { mut child, lines } = spawn(command, directory, seed);
    let who = format!("the child of seed {seed}");
    if !chance.one_in(5) {
        while let Ok(line) = lines.recv() {
            if hear(told, &line, &who) {
                break;
            }
        }
    }
    // The moment of the kill is the test's input.
    thread::sleep(Duration::from_micros(chance.below(120_000)));
    child.kill().unwrap();
    let status = child.wait().unwrap();
    for line in lines {
        hear(told, &line, &who);
    }
    assert_eq!(status.signal(), Some(9), "the child ended by itself: {status}");
}

/// What else may be found in the directory after a crash.
fn disturb(directory: &Path, chance: &mut Chance, told: &mut Told) {
    let store = directory.join("store");
    if chance.one_in(5) && store.exists() && engine::engine() == Engine::Sled {
        fs::write(store.join(format!("snap.{:016X}.generating", chance.below(1 << 20))), b"").unwrap();
    }
    let journal = directory.join("journal");
    if chance.one_in(4) && fs::metadata(&journal).is_ok_and(|found| found.len() > 100) {
        // The beginning of a group that was never written whole, let alone synced.
        let torn: Vec<u8> = (0..=chance.below(200)).map(|_| chance.next().to_be_bytes()[0]).collect();
        fs::OpenOptions::new().append(true).open(&journal).unwrap().write_all(&torn).unwrap();
    }
    if chance.one_in(8) {
        let before = check(directory, told);
        fs::remove_dir_all(&store).unwrap();
        let after = check(directory, told);
        assert_eq!(before, after, "the store rebuilt from the journal is another");
    }
}

/// R28, R55, I5, I6, I7: what was acknowledged as durable survives a kill at any moment.
#[test]
fn acknowledged_work_survives_being_killed() {
    let (rounds, seed) = (setting("COMMISSARY_CRASH_ROUNDS", 30), setting("COMMISSARY_CRASH_SEED", 7));
    let base = tempfile::tempdir().unwrap();
    let (mut chance, mut all, mut works) = (Chance(seed), Told::default(), Vec::new());
    let mut rounds_left = 1..=rounds;
    for hub in 0..rounds.div_ceil(ROUNDS_OF_A_HUB as u64) {
        let directory = base.path().join(format!("hub-{hub}"));
        let mut told = Told::default();
        for round in rounds_left.by_ref().take(ROUNDS_OF_A_HUB) {
            one_life(this_file(), &directory, round, &mut chance, &mut told);
            if directory.join("journal").exists() {
                disturb(&directory, &mut chance, &mut told);
                // Otherwise the next child recovers from it, and may be killed while it does.
                if chance.one_in(2) {
                    check(&directory, &mut told);
                }
            }
        }
        works = check(&directory, &mut told).work;
        all.add(told);
        fs::remove_dir_all(directory).unwrap();
    }
    let Told { acknowledged, replayed, cuts, rebuilds, compactions, reported, .. } = all;
    // Four of five are waited for, the rest is speed.
    assert!(acknowledged > rounds / 2 && !reported.is_empty(), "the children got nothing done");
    eprintln!(
        "{rounds} kills, seed {seed}: {acknowledged} effects acknowledged, {} of them reports; {replayed} records replayed, {cuts} \
         torn tails cut, {rebuilds} stores set aside, {compactions} compactions; at the end {:?}",
        reported.len(),
        works
    );
}

/// Another run of the machine has another boot id.
#[cfg(target_os = "linux")]
fn restarted(directory: &Path) {
    let marker = directory.join("store.unsynced");
    if marker.exists() {
        fs::write(marker, "00000000-0000-0000-0000-000000000000").unwrap();
    }
}

/// Stores that were set aside are of no more use.
#[cfg(target_os = "linux")]
fn tidy(directory: &Path) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with("store.damaged") {
            fs::remove_dir_all(path).unwrap();
        }
    }
}

#[cfg(target_os = "linux")]
mod synced_only {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::device_shim::Device;
    use super::*;

    /// A hub in a tree of its own, on a device that forgets what was not synced.
    struct Forgetful {
        base: tempfile::TempDir,
        durability: &'static str,
        /// Since the power came back.
        device: Option<Device>,
    }

    impl Forgetful {
        fn new(durability: &'static str) -> Self {
            let base = tempfile::tempdir().unwrap();
            fs::create_dir(base.path().join("tree")).unwrap();
            Self { base, durability, device: None }
        }

        fn hub(&self) -> std::path::PathBuf {
            self.base.path().join("tree/hub")
        }

        /// One life, after which the power stays.
        fn one_life(&mut self, seed: u64, chance: &mut Chance, told: &mut Told) {
            let [tree, kept] = ["tree", "device"].map(|part| self.base.path().join(part));
            let device = self.device.get_or_insert_with(|| Device::below(&tree, &kept));
            let mut command = this_file();
            command.envs(device.variables()).env(toil::DURABILITY, self.durability);
            one_life(command, &tree.join("hub"), seed, chance, told);
            device.outlives();
        }

        /// What is left is what the device has: that may be some of what was not synced, too, if it is `busy`.
        fn lose_power(&mut self, busy: bool, chance: &mut Chance) {
            if let Some(device) = self.device.take() {
                device.lose_power(busy, chance);
                restarted(&self.hub());
            }
        }
    }

    /// R28, R55: what was acknowledged as durable survives a kill at any moment that takes what was not synced with it. So that a pass
    /// means something, the same work without a sync must lose something in most rounds.
    #[test]
    fn acknowledged_work_survives_a_device_that_keeps_only_what_was_synced() {
        let (rounds, seed) = (setting("COMMISSARY_CRASH_ROUNDS", 30), setting("COMMISSARY_CRASH_SEED", 7));
        let (mut chance, mut all) = (Chance(seed), Told::default());
        let mut rounds_left = 1..=rounds;
        for _ in 0..rounds.div_ceil(ROUNDS_OF_A_HUB as u64) {
            let (mut world, mut told) = (Forgetful::new("sync"), Told::default());
            for round in rounds_left.by_ref().take(ROUNDS_OF_A_HUB) {
                world.one_life(round, &mut chance, &mut told);
                if chance.one_in(4) {
                    continue;
                }
                world.lose_power(chance.one_in(2), &mut chance);
                // Otherwise the next child recovers.
                if world.hub().join("journal").exists() && chance.one_in(2) {
                    check(&world.hub(), &mut told);
                    tidy(&world.hub());
                }
            }
            world.lose_power(false, &mut chance);
            check(&world.hub(), &mut told);
            all.add(told);
        }
        let Told { acknowledged, cuts, rebuilds, compactions, .. } = all;
        // Four of five are waited for, the rest is speed.
        assert!(acknowledged > rounds / 2, "the children got nothing done");
        let (contrasts, mut lost) = ((rounds / 10).max(2), 0);
        for round in 1..=contrasts {
            let (mut world, mut told) = (Forgetful::new("os"), Told::default());
            while told.acknowledged == 0 {
                world.one_life(rounds + round, &mut chance, &mut told);
            }
            world.lose_power(false, &mut chance);
            lost += u64::from(catch_unwind(AssertUnwindSafe(|| drop(check(&world.hub(), &mut told)))).is_err());
        }
        eprintln!(
            "{rounds} kills on a device that forgets, seed {seed}: {acknowledged} effects acknowledged, 0 lost; {cuts} torn tails cut, \
             {rebuilds} stores rebuilt, {compactions} compactions; without syncs {lost} of {contrasts} rounds lost something"
        );
        assert!(lost * 2 > contrasts, "the harness does not see losses: {lost} of {contrasts}");
    }
}

#[cfg(target_os = "linux")]
mod power {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::image::Image;
    use super::*;

    /// A child under a file system that is about to lose its power.
    struct Life<'a> {
        image: &'a Image,
        directory: &'a Path,
        seed: u64,
        durability: &'static str,
    }

    impl Life<'_> {
        /// Lets a child work for a while, stops it, cuts the power, and lets the machine start again.
        fn end_by_power(&self, chance: &mut Chance, told: &mut Told) {
            let mut command = this_file();
            command.env(toil::DURABILITY, self.durability);
            let Running { mut child, lines } = spawn(command, self.directory, self.seed);
            let who = format!("the child of seed {}", self.seed);
            let early = chance.one_in(6);
            while let Ok(line) = lines.recv() {
                if hear(told, &line, &who) || early {
                    break;
                }
            }
            thread::sleep(Duration::from_micros(chance.below(150_000)));
            stop(child.id());
            self.image.cut();
            child.kill().unwrap();
            let status = child.wait().unwrap();
            for line in lines {
                hear(told, &line, &who);
            }
            assert_eq!(status.signal(), Some(9), "{who} ended by itself: {status}");
            self.start_again();
        }

        fn start_again(&self) {
            self.image.come_back();
            restarted(self.directory);
        }
    }

    /// Returns when none of its threads runs, so that none is told of a sync any more.
    fn stop(process: u32) {
        assert!(Command::new("kill").args(["-STOP", &process.to_string()]).status().unwrap().success());
        let stands = |task: fs::DirEntry| {
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('T'))
        };
        let tasks = || fs::read_dir(format!("/proc/{process}/task")).unwrap();
        while !tasks().all(|task| stands(task.unwrap())) {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// R28, R55: what was acknowledged as durable survives the machine's loss of power at any moment. So that a pass means something,
    /// the same work without a sync must lose something in most rounds.
    #[test]
    fn acknowledged_work_survives_power_cuts_on_a_file_system() {
        let (rounds, seed) = (setting("COMMISSARY_CUT_ROUNDS_EXT4", 20), setting("COMMISSARY_CRASH_SEED", 7));
        let base = tempfile::tempdir().unwrap();
        let Some(image) = Image::mount(base.path()) else {
            eprintln!("power cuts | skipped: they take root, loop devices, ext4's tools and perl");
            return;
        };
        let (mut chance, mut all) = (Chance(seed), Told::default());
        let mut rounds_left = 1..=rounds;
        for hub in 0..rounds.div_ceil(ROUNDS_OF_A_HUB as u64) {
            let directory = &image.root().join(format!("hub-{hub}"));
            let mut told = Told::default();
            for round in rounds_left.by_ref().take(ROUNDS_OF_A_HUB) {
                let life = Life { image: &image, directory, seed: round, durability: "sync" };
                life.end_by_power(&mut chance, &mut told);
                // Otherwise the next child recovers.
                if directory.join("journal").exists() && chance.one_in(2) {
                    check(directory, &mut told);
                    tidy(directory);
                }
            }
            check(directory, &mut told);
            all.add(told);
            // Its room is wanted. The next power cut must not bring it back.
            fs::remove_dir_all(directory).unwrap();
            fs::File::open(image.root()).unwrap().sync_all().unwrap();
        }
        let Told { acknowledged, cuts, rebuilds, compactions, .. } = all;
        // Five of six are waited for, the rest is speed.
        assert!(acknowledged > rounds / 2, "the children got nothing done");
        assert!(rebuilds > 0 || engine::engine() != Engine::Sled, "no store was ever doubted");
        let (contrasts, mut lost) = ((rounds / 10).max(2), 0);
        for round in 1..=contrasts {
            let directory = image.root().join(format!("os-{round}"));
            let mut told = Told::default();
            while told.acknowledged == 0 {
                let life = Life { image: &image, directory: &directory, seed: rounds + round, durability: "os" };
                life.end_by_power(&mut chance, &mut told);
            }
            lost += u64::from(catch_unwind(AssertUnwindSafe(|| drop(check(&directory, &mut told)))).is_err());
            drop(fs::remove_dir_all(&directory));
        }
        eprintln!(
            "{rounds} power cuts, seed {seed}: {acknowledged} effects acknowledged, 0 lost; {cuts} torn tails cut, {rebuilds} stores \
             rebuilt, {compactions} compactions; without syncs {lost} of {contrasts} rounds lost something"
        );
        assert!(lost * 2 > contrasts, "the harness does not see losses: {lost} of {contrasts}");
    }
}
