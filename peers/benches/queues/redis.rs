//! Redis over loopback, `appendfsync always`: a list of what is there, and a sorted set of what is leased, by deadline. A
//! claim is a script that moves as many items as there may be; what is done leaves the set. Nothing is kept of it.

use std::io::{BufRead, Read};
use std::process::Command;

use crate::contender::{Contender, Drained, LEASE, Setup, Worker, by_threads, report_on};
use crate::servers::{Line, Programs, Server, free_port};

/// Items added in one go.
const BATCH: usize = 1_000;

const CLAIM: &str = "local found = redis.call('LPOP', KEYS[1], ARGV[1]) \
    if not found then return {} end \
    for _, item in ipairs(found) do redis.call('ZADD', KEYS[2], ARGV[2], item) end \
    return found";

/// What is answered, as far as it is asked for here.
enum Answer {
    Number(u64),
    Items(Vec<u64>),
    Word,
    Error(String),
}

struct Client(Line);

impl Client {
    fn open(port: u16) -> Option<Self> {
        Line::open(port).map(Self)
    }

    fn call(&mut self, words: &[&[u8]]) -> Answer {
        let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            bytes.extend(format!("${}\r\n", word.len()).bytes());
            bytes.extend(*word);
            bytes.extend(b"\r\n");
        }
        self.0.send(&bytes);
        self.answer()
    }

    fn answer(&mut self) -> Answer {
        let head = self.head();
        match head.as_bytes().first() {
            Some(b':') => Answer::Number(head[1..].parse().expect("a number")),
            Some(b'*') => Answer::Items((0..head[1..].parse().expect("a number")).map(|_| self.item()).collect()),
            Some(b'-') => Answer::Error(head),
            _ => Answer::Word,
        }
    }

    fn head(&mut self) -> String {
        let mut head = String::new();
        self.0.reader.read_line(&mut head).expect("answered");
        head.trim_end().to_owned()
    }

    fn item(&mut self) -> u64 {
        let length: usize = self.head()[1..].parse().expect("a number");
        let mut bytes = vec![0; length + 2];
        self.0.reader.read_exact(&mut bytes).expect("answered");
        String::from_utf8_lossy(&bytes[..length]).parse().expect("a number")
    }

    fn number(&mut self, words: &[&[u8]]) -> u64 {
        match self.call(words) {
            Answer::Number(number) => number,
            Answer::Error(what) => panic!("{what}"),
            Answer::Items(_) | Answer::Word => panic!("no number"),
        }
    }
}

fn serve(setup: &Setup<'_>) -> Server {
    let port = free_port();
    let mut command = Command::new(Programs::find("redis-server").expect("looked for before"));
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"]).arg(setup.directory);
    command.args(["--appendonly", "yes", "--appendfsync", "always", "--daemonize", "no"]);
    Server::start(command, port, |port| {
        Client::open(port).is_some_and(|mut client| matches!(client.call(&[b"PING"]), Answer::Word))
    })
}

struct Redis(Server);

pub(crate) fn open(setup: &Setup<'_>) -> Box<dyn Contender> {
    let server = serve(setup);
    let mut client = Client::open(server.port).expect("it listens");
    let items: Vec<String> = (0..setup.items).map(|item| item.to_string()).collect();
    for items in items.chunks(BATCH) {
        let words: Vec<&[u8]> =
            [&b"RPUSH"[..], b"ready"].into_iter().chain(items.iter().map(String::as_bytes)).collect();
        client.number(&words);
    }
    Box::new(Redis(server))
}

struct RedisWorker {
    client: Client,
    most: String,
}

impl Worker for RedisWorker {
    fn turn(&mut self, done: &mut Vec<u64>) {
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("a time");
        let deadline = (now + LEASE).as_secs().to_string();
        let words: [&[u8]; 7] =
            [b"EVAL", CLAIM.as_bytes(), b"2", b"ready", b"leased", self.most.as_bytes(), deadline.as_bytes()];
        let items = match self.client.call(&words) {
            Answer::Items(items) => items,
            Answer::Error(what) => panic!("{what}"),
            Answer::Number(_) | Answer::Word => panic!("no items"),
        };
        if items.is_empty() {
            return;
        }
        for item in &items {
            std::hint::black_box(report_on(*item));
        }
        let names: Vec<String> = items.iter().map(u64::to_string).collect();
        let words: Vec<&[u8]> =
            [&b"ZREM"[..], b"leased"].into_iter().chain(names.iter().map(String::as_bytes)).collect();
        assert_eq!(self.client.number(&words), items.len() as u64);
        done.extend(items);
    }
}

impl Contender for Redis {
    fn drain(&self, setup: &Setup<'_>) -> Drained {
        let client = || Client::open(self.0.port).expect("it listens");
        by_threads(setup, |_| RedisWorker { client: client(), most: setup.claim.to_string() })
    }

    fn left(self: Box<Self>, setup: &Setup<'_>) -> u64 {
        drop(self);
        let server = serve(setup);
        let mut client = Client::open(server.port).expect("it listens");
        client.number(&[b"LLEN", b"ready"]) + client.number(&[b"ZCARD", b"leased"])
    }
}
