//! beanstalkd over loopback, with a sync for each write (`-f 0`). What a claim takes is asked for in one go, and so is
//! what is done with it.

use std::fmt::Write;
use std::io::{BufRead, Read};
use std::process::Command;

use crate::contender::{Contender, Drained, LEASE, Setup, Worker, by_threads, report_on};
use crate::servers::{Line, Programs, Server, free_port};

/// Items added in one go.
const BATCH: u64 = 100;
/// A sync for each write.
const EACH: [&str; 2] = ["-f", "0"];

struct Client(Line);

impl Client {
    fn open(port: u16) -> Option<Self> {
        Line::open(port).map(Self)
    }

    fn answer(&mut self) -> String {
        let mut answer = String::new();
        self.0.reader.read_line(&mut answer).expect("answered");
        answer.trim_end().to_owned()
    }

    fn body(&mut self, length: &str) -> String {
        let length: usize = length.parse().expect("a number");
        let mut bytes = vec![0; length + 2];
        self.0.reader.read_exact(&mut bytes).expect("answered");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    /// A reserved job and its item; none if there is none.
    fn reserved(&mut self) -> Option<(String, u64)> {
        let answer = self.answer();
        if answer == "TIMED_OUT" {
            return None;
        }
        let words: Vec<&str> = answer.split(' ').collect();
        assert!(words.len() == 3 && words[0] == "RESERVED", "{answer}");
        let item = self.body(words[2]).parse().expect("a number");
        Some((words[1].to_owned(), item))
    }

    /// Jobs that are there, in whatever state.
    fn jobs(&mut self) -> u64 {
        self.0.send(b"stats\r\n");
        let answer = self.answer();
        let told = self.body(answer.strip_prefix("OK ").expect("told"));
        let counts = ["current-jobs-ready: ", "current-jobs-reserved: ", "current-jobs-delayed: "];
        told.lines().filter_map(|line| counts.iter().find_map(|count| line.strip_prefix(count))).fold(
            0,
            |sum, count| {
                let count: u64 = count.parse().expect("a number");
                sum + count
            },
        )
    }
}

/// With `syncs` as its arguments say.
fn serve(setup: &Setup<'_>, syncs: &[&str]) -> Server {
    let port = free_port();
    let mut command = Command::new(Programs::find("beanstalkd").expect("looked for before"));
    command.args(["-l", "127.0.0.1", "-p", &port.to_string(), "-b"]).arg(setup.directory).args(syncs);
    Server::start(command, port, |port| Client::open(port).is_some())
}

struct Beanstalk(Server);

pub(crate) fn open(setup: &Setup<'_>) -> Box<dyn Contender> {
    // Filled without syncs, which would take long; then it is started anew.
    let server = serve(setup, &["-F"]);
    let mut client = Client::open(server.port).expect("it listens");
    for from in (0..setup.items).step_by(usize::try_from(BATCH).expect("fits")) {
        let items = from..setup.items.min(from + BATCH);
        let mut puts = String::new();
        for item in items.clone() {
            let item = item.to_string();
            write!(puts, "put 0 0 {} {}\r\n{item}\r\n", LEASE.as_secs(), item.len()).expect("written");
        }
        client.0.send(puts.as_bytes());
        for _ in items {
            let answer = client.answer();
            assert!(answer.starts_with("INSERTED"), "{answer}");
        }
    }
    drop((client, server));
    Box::new(Beanstalk(serve(setup, &EACH)))
}

struct BeanstalkWorker {
    client: Client,
    ask: String,
    most: usize,
}

impl Worker for BeanstalkWorker {
    fn turn(&mut self, done: &mut Vec<u64>) {
        self.client.0.send(self.ask.as_bytes());
        let jobs: Vec<(String, u64)> = (0..self.most).filter_map(|_| self.client.reserved()).collect();
        let mut deletes = String::new();
        for (job, item) in &jobs {
            std::hint::black_box(report_on(*item));
            write!(deletes, "delete {job}\r\n").expect("written");
        }
        self.client.0.send(deletes.as_bytes());
        for (_, item) in jobs {
            assert_eq!(self.client.answer(), "DELETED");
            done.push(item);
        }
    }
}

impl Contender for Beanstalk {
    fn drain(&self, setup: &Setup<'_>) -> Drained {
        let client = || Client::open(self.0.port).expect("it listens");
        let ask = "reserve-with-timeout 0\r\n".repeat(setup.claim);
        by_threads(setup, |_| BeanstalkWorker { client: client(), ask: ask.clone(), most: setup.claim })
    }

    fn left(self: Box<Self>, setup: &Setup<'_>) -> u64 {
        drop(self);
        let server = serve(setup, &EACH);
        Client::open(server.port).expect("it listens").jobs()
    }
}
