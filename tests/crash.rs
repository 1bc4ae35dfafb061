//! Kills a process that works on a hub, cuts its power, and fails its disk, over and over, and checks that what it was told to be
//! durable is there.
//!
//! | variable | default | what |
//! |---|---:|---|
//! | `COMMISSARY_CRASH_ROUNDS` | 30 | kills |
//! | `COMMISSARY_CRASH_SEED` | 7 | where their times and the work come from |
//! | `COMMISSARY_CUT_ROUNDS_EXT4` | 20 | power cuts; they take root, loop devices, ext4's tools and perl |
//! | `COMMISSARY_STRACE_CALLS` | 0 | system calls of each kind that fail; they take strace |
//!
//! Each prints one line (`--nocapture`).
#![cfg(unix)]

#[path = "support/engine.rs"]
mod engine;
#[cfg(target_os = "linux")]
#[path = "support/image.rs"]
mod image;
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
fn one_life(directory: &Path, seed: u64, chance: &mut Chance, told: &mut Told) {
    let Running { mut child, lines } = spawn(this_file(), directory, seed);
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
            one_life(&directory, round, &mut chance, &mut told);
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
    assert!(acknowledged > rounds && !reported.is_empty(), "the children got nothing done");
    eprintln!(
        "{rounds} kills, seed {seed}: {acknowledged} effects acknowledged, {} of them reports; {replayed} records replayed, {cuts} \
         torn tails cut, {rebuilds} stores set aside, {compactions} compactions; at the end {:?}",
        reported.len(),
        works
    );
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

    /// Another run of the machine has another boot id.
    pub(super) fn restarted(directory: &Path) {
        let marker = directory.join("store.unsynced");
        if marker.exists() {
            fs::write(marker, "00000000-0000-0000-0000-000000000000").unwrap();
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

    /// Stores that were set aside are of no more use.
    pub(super) fn tidy(directory: &Path) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap().to_string_lossy().starts_with("store.damaged") {
                fs::remove_dir_all(path).unwrap();
            }
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
        assert!(acknowledged > rounds, "the children got nothing done");
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

#[cfg(target_os = "linux")]
mod calls {
    use std::sync::mpsc::RecvTimeoutError;

    use super::image::Image;
    use super::*;

    /// Steps of each worker of a child: more syncs than calls that are tried.
    const CHILD_STEPS: &str = "40";
    /// Children on one hub: each opening of it reads all that the earlier ones did.
    const CALLS_OF_A_HUB: u64 = 15;
    /// A child that says nothing for so long hangs.
    const PATIENCE: Duration = Duration::from_secs(120);

    /// A way in which a system call fails.
    struct Fault {
        what: &'static str,
        calls: &'static str,
        action: &'static str,
        /// Every call from that one on, too.
        lasting: bool,
        /// Files of the hub's directory that it strikes; any, if none is named.
        files: &'static [&'static str],
    }

    const JOURNALS: &[&str] = &["journal", "journal.new"];
    const FAULTS: [Fault; 13] = [
        Fault {
            what: "killed in a fdatasync",
            calls: "fdatasync",
            action: "signal=SIGKILL",
            lasting: false,
            files: &[],
        },
        Fault { what: "killed in a fsync", calls: "fsync", action: "signal=SIGKILL", lasting: false, files: &[] },
        Fault { what: "killed in a write", calls: "write", action: "signal=SIGKILL", lasting: false, files: JOURNALS },
        Fault { what: "killed in a rename", calls: "rename", action: "signal=SIGKILL", lasting: false, files: &[] },
        Fault { what: "EIO in a fdatasync", calls: "fdatasync", action: "error=EIO", lasting: false, files: &[] },
        Fault { what: "EIO in every fdatasync", calls: "fdatasync", action: "error=EIO", lasting: true, files: &[] },
        Fault { what: "EIO in a fsync", calls: "fsync", action: "error=EIO", lasting: false, files: &[] },
        Fault { what: "EIO in every fsync", calls: "fsync", action: "error=EIO", lasting: true, files: &[] },
        Fault { what: "ENOSPC in a write", calls: "write", action: "error=ENOSPC", lasting: false, files: JOURNALS },
        Fault { what: "ENOSPC in every write", calls: "write", action: "error=ENOSPC", lasting: true, files: JOURNALS },
        Fault { what: "ENOSPC in the store", calls: "pwrite64", action: "error=ENOSPC", lasting: true, files: &[] },
        Fault { what: "EIO in a rename", calls: "rename", action: "error=EIO", lasting: false, files: &[] },
        Fault {
            what: "EIO in a read",
            calls: "pread64",
            action: "error=EIO",
            lasting: false,
            files: &["journal", "store/db"],
        },
    ];

    impl Fault {
        fn command(&self, directory: &Path, nth: u64) -> Command {
            let mut command = Command::new("strace");
            command.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={}", self.calls)]);
            let on = if self.lasting { "+" } else { "" };
            command.args(["-e", &format!("inject={}:{}:when={nth}{on}", self.calls, self.action)]);
            for file in self.files {
                command.arg("-P").arg(directory.join(file));
            }
            command.arg(std::env::current_exe().unwrap());
            command.env(toil::STEPS, CHILD_STEPS);
            command
        }

        /// Lets a child run into the fault. True if it did.
        fn strikes(&self, directory: &Path, nth: u64, seed: u64, told: &mut Told) -> bool {
            let who = format!("{}, the {nth}-th: the child of seed {seed}", self.what);
            let Running { mut child, lines } = spawn(self.command(directory, nth), directory, seed);
            let (mut process, mut ended, refused) = (None, false, told.refused);
            loop {
                let line = match lines.recv_timeout(PATIENCE) {
                    Ok(line) => line,
                    Err(RecvTimeoutError::Disconnected) => break,
                    Err(RecvTimeoutError::Timeout) => {
                        // strace would leave it behind.
                        let process = process.unwrap_or_else(|| child.id().to_string());
                        drop(Command::new("kill").args(["-KILL", &process]).status());
                        child.wait().unwrap();
                        panic!("{who} hangs");
                    }
                };
                hear(told, &line, &who);
                match line.split_once(' ') {
                    Some(("pid", found)) => process = Some(found.to_owned()),
                    _ => ended |= line == "end",
                }
            }
            child.wait().unwrap();
            assert!(process.is_some(), "{who} did not begin: strace failed");
            assert!(ended || self.action.starts_with("signal"), "{who} ended in the middle");
            !ended || told.refused > refused
        }
    }

    /// R55, R111: each kind of system call fails, the first, the second and so on, once or from then on, or the process dies in it. Nobody
    /// is told of what did not become durable, also when the power goes afterwards; nothing hangs, and the hub opens again.
    #[test]
    fn acknowledged_work_survives_system_calls_that_fail() {
        let calls = setting("COMMISSARY_STRACE_CALLS", 0);
        if calls == 0 || !Command::new("strace").arg("-V").output().is_ok_and(|output| output.status.success()) {
            eprintln!("failing calls | skipped: they take strace, and COMMISSARY_STRACE_CALLS");
            return;
        }
        let base = tempfile::tempdir().unwrap();
        let image = Image::mount(base.path());
        let (mut seed, mut struck) = (0, 0);
        for (kind, fault) in FAULTS.iter().enumerate() {
            // Each kind on hubs of its own, which the children fill one after another. They stay: a removal is undone by a power cut.
            let root = image.as_ref().map_or(base.path().to_path_buf(), Image::root);
            let (mut all, mut told, mut of_these) = (Told::default(), Told::default(), 0);
            for nth in 1..=calls {
                let directory = &root.join(format!("hub-{kind}-{}", nth / CALLS_OF_A_HUB));
                if nth.is_multiple_of(CALLS_OF_A_HUB) {
                    all.add(std::mem::take(&mut told));
                }
                seed += 1;
                of_these += u64::from(fault.strikes(directory, nth, seed, &mut told));
                if let Some(image) = &image {
                    image.cut();
                    image.come_back();
                    power::restarted(directory);
                }
                if directory.join("journal").exists() {
                    check(directory, &mut told);
                    power::tidy(directory);
                }
            }
            all.add(told);
            eprintln!(
                "{}: {of_these} of {calls} children were struck, {} calls refused, {} effects acknowledged, 0 lost",
                fault.what, all.refused, all.acknowledged
            );
            assert!(of_these > 0, "{}: no child was struck", fault.what);
            struck += of_these;
        }
        let power = if image.is_some() { "the power cut after each" } else { "no power cuts" };
        eprintln!("{seed} children, {power}: {struck} struck, 0 lost");
    }
}
