//! Servers, started for a cell, on a free port of the loopback device.

use std::env;
use std::fs;
use std::io::{BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

/// Longer than a server takes to start.
const PATIENCE: Duration = Duration::from_secs(20);
/// Where programs are that are not in the path; beside the bench's own is another place.
const ELSEWHERE: [&str; 3] =
    ["/usr/sbin", "/usr/local/sbin", concat!(env!("CARGO_MANIFEST_DIR"), "/apalis/target/release")];
/// A user without rights, for the server that refuses to run as the one with all of them.
const NOBODY: u32 = 65_534;

/// The programs that are installed, and the cluster that all cells share.
#[derive(Debug)]
pub(crate) struct Programs {
    place: PathBuf,
    cluster: OnceLock<Server>,
}

impl Programs {
    pub(crate) fn new(place: &Path) -> Self {
        Self { place: place.to_owned(), cluster: OnceLock::new() }
    }

    pub(crate) fn find(name: &str) -> Option<PathBuf> {
        let paths = env::var_os("PATH").unwrap_or_default();
        let built = env::current_exe().ok().and_then(|bench| Some(bench.parent()?.parent()?.to_owned()));
        let known = env::split_paths(&paths).chain(ELSEWHERE.map(PathBuf::from)).chain(built);
        known.map(|directory| directory.join(name)).find(|program| program.is_file())
    }

    /// The port of a `PostgreSQL` cluster as `initdb` makes it, in a directory of its own; made when first asked for.
    pub(crate) fn cluster(&self) -> u16 {
        self.cluster.get_or_init(|| cluster(&self.place.join("cluster"))).port
    }
}

/// Killed when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
}

impl Server {
    /// Starts it and waits until it answers: a connection that `ready` is content with.
    pub(crate) fn start(mut command: Command, port: u16, ready: impl Fn(u16) -> bool) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut server = Self { child: child.expect("starts"), port };
        let began = Instant::now();
        while !ready(port) {
            let ended = server.child.try_wait().expect("known");
            assert!(ended.is_none(), "{command:?} ended: {ended:?}");
            assert!(began.elapsed() < PATIENCE, "{command:?} does not answer");
            thread::sleep(Duration::from_millis(5));
        }
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // As a crash would: it says what it said, and keeps it.
        self.child.kill().expect("killed");
        self.child.wait().expect("ended");
    }
}

pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("an address").port()
}

/// A connection for requests and answers.
pub(crate) struct Line {
    pub(crate) reader: BufReader<TcpStream>,
    writer: TcpStream,
}

impl Line {
    pub(crate) fn open(port: u16) -> Option<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
        stream.set_nodelay(true).expect("set");
        Some(Self { reader: BufReader::new(stream.try_clone().expect("cloned")), writer: stream })
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.writer.write_all(bytes).expect("sent");
    }
}

fn cluster(place: &Path) -> Server {
    fs::create_dir(place).expect("a directory");
    let root = fs::metadata("/proc/self").expect("there is this process").uid() == 0;
    if root {
        std::os::unix::fs::chown(place, Some(NOBODY), Some(NOBODY)).expect("given away");
        fs::set_permissions(place.parent().expect("above"), fs::Permissions::from_mode(0o755)).expect("opened");
    }
    let run = |program: &str| {
        let mut command = Command::new(Programs::find(program).expect("looked for before"));
        command.current_dir(place).env("LC_ALL", "C");
        if root {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    };
    let data = place.join("data");
    let made = run("initdb").args(["--username=bench", "--auth=trust", "--pgdata"]).arg(&data).output().expect("runs");
    assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
    let port = free_port();
    let mut server = run("postgres");
    server.arg("-D").arg(&data).args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"]);
    server.args(["-c", "unix_socket_directories="]);
    Server::start(server, port, |port| crate::postgres::connect(port).is_some())
}
