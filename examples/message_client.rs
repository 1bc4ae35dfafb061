//! Sends a file's lines to a message server over several connections, each line until it is acknowledged.
//!
//! ```text
//! cargo run --example message_client -- FILE --to ADDRESS | --port-file FILE [--connections N] [--id HEX] [--window N]
//!     [--cap BYTES]
//! ```
//!
//! Line i goes over connection i mod N, which is a client of its own: id + i mod N. A message is a line as it stands in the
//! file, with its line end. After a broken connection, and when the server had no room, all that was not acknowledged is
//! sent again under the same numbers, so the log holds it once. `--cap` is the longest line that is sent, and must not
//! be beyond what the server reads. Lines that are too long for it, or for the log, are counted and left out before the
//! first one is sent: who left one out later would have to number the others anew, some of which may still be under way.
#![expect(clippy::print_stdout, reason = "an example talks to its user")]

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};
use std::{env, fs, thread};

use commissary::messages::Nack;
use commissary::messages::wire::{self, Frame};

/// Longest that an answer is waited for.
const TIMEOUT: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    match run(env::args().skip(1)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("message_client: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: impl Iterator<Item = String>) -> Result<bool, String> {
    let (file, options) = Options::parse(args)?;
    let bytes = fs::read(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    let lines: Vec<&[u8]> = lines(&bytes).collect();
    println!("id {:032x}: {} lines over {} connections", options.id, lines.len(), options.connections);
    let (counts, errors) = send(&lines, &options, &|| {});
    for error in &errors {
        eprintln!("{error}");
    }
    let Counts { sent, acknowledged, resent, too_long, connections } = counts;
    println!(
        "sent {sent}, acknowledged {acknowledged}, resent {resent}, too long {too_long}, connected {connections} times"
    );
    Ok(errors.is_empty() && acknowledged == lines.len() as u64)
}

/// Lines with their ends; the last one may be without.
pub(crate) fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split_inclusive(|byte| *byte == b'\n')
}

/// Where the server is.
#[derive(Debug, Clone)]
pub(crate) enum Server {
    Address(String),
    /// In this file, which is looked at again before every connection.
    PortFile(PathBuf),
}

#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) server: Server,
    pub(crate) connections: usize,
    pub(crate) id: u128,
    /// Messages of one connection that are not answered yet, at most. No more than the log remembers of a client.
    pub(crate) window: usize,
    pub(crate) cap: usize,
    /// Wait before the second attempt to connect; doubled up to six times.
    pub(crate) backoff: Duration,
    /// Attempts in a row that may fail.
    pub(crate) attempts: u32,
}

impl Options {
    pub(crate) fn new(server: Server, id: u128) -> Self {
        let backoff = Duration::from_millis(50);
        Self { server, connections: 4, id, window: 32, cap: 64 << 10, backoff, attempts: 40 }
    }

    fn parse(mut args: impl Iterator<Item = String>) -> Result<(PathBuf, Self), String> {
        let file = args.next().ok_or("which file?")?.into();
        let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let mut options = Self::new(Server::Address("127.0.0.1:7103".to_owned()), since_1970.as_nanos() << 32);
        while let Some(name) = args.next() {
            let value = args.next().ok_or_else(|| format!("{name} needs a value"))?;
            let number = || value.parse::<usize>().map_err(|error| format!("{name} {value}: {error}"));
            match name.as_str() {
                "--to" => options.server = Server::Address(value),
                "--port-file" => options.server = Server::PortFile(value.into()),
                "--connections" => options.connections = number()?.max(1),
                "--window" => options.window = number()?.max(1),
                "--cap" => options.cap = number()?,
                "--id" => {
                    let id = u128::from_str_radix(&value.replace('-', ""), 16);
                    options.id = id.map_err(|error| format!("{name} {value}: {error}"))?;
                }
                _ => return Err(format!("{name} is not known")),
            }
        }
        Ok((file, options))
    }
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Messages sent, `resent` among them.
    pub(crate) sent: u64,
    pub(crate) acknowledged: u64,
    /// Messages sent again.
    pub(crate) resent: u64,
    pub(crate) too_long: u64,
    /// Connections made.
    pub(crate) connections: u64,
}

/// Sends the lines; returns when each is acknowledged or too long, or why not. Calls `acknowledged` for every one that is.
pub(crate) fn send(lines: &[&[u8]], options: &Options, acknowledged: &(dyn Fn() + Sync)) -> (Counts, Vec<String>) {
    let mut total = Counts::default();
    let mut errors = Vec::new();
    thread::scope(|scope| {
        let senders: Vec<_> = (0..options.connections)
            .map(|i| {
                let own = lines.iter().copied().skip(i).step_by(options.connections);
                let mut sender = Sender::new(options, options.id.wrapping_add(i as u128), own, acknowledged);
                scope.spawn(move || (sender.run(), sender.counts))
            })
            .collect();
        for sender in senders {
            let Ok((result, counts)) = sender.join() else {
                errors.push("a sender panicked".to_owned());
                continue;
            };
            total.sent += counts.sent;
            total.acknowledged += counts.acknowledged;
            total.resent += counts.resent;
            total.too_long += counts.too_long;
            total.connections += counts.connections;
            errors.extend(result.err());
        }
    });
    (total, errors)
}

/// Why a connection was given up.
enum Trouble {
    /// Another connection may do better.
    Broken(String),
    /// Trying again would not help.
    Final(String),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Broken(error.to_string())
    }
}

/// One client.
struct Sender<'a> {
    options: &'a Options,
    client: u128,
    /// What is not acknowledged, in order. The first has number `first`.
    waiting: VecDeque<&'a [u8]>,
    first: u64,
    /// The log's cap is not known yet.
    asking: bool,
    /// How many of `waiting` were sent and not answered.
    in_flight: usize,
    /// After a NACK: the answers to all that was sent behind it are passed over, then this is waited for.
    pause: Option<Duration>,
    /// The highest number ever sent.
    highest: u64,
    counts: Counts,
    acknowledged: &'a (dyn Fn() + Sync),
}

impl<'a> Sender<'a> {
    fn new(
        options: &'a Options,
        client: u128,
        lines: impl Iterator<Item = &'a [u8]>,
        acknowledged: &'a (dyn Fn() + Sync),
    ) -> Self {
        let (waiting, too_long): (VecDeque<_>, VecDeque<_>) = lines.partition(|line| line.len() <= options.cap);
        let counts = Counts { too_long: too_long.len() as u64, ..Counts::default() };
        Self {
            options,
            client,
            waiting,
            first: 1,
            asking: true,
            in_flight: 0,
            pause: None,
            highest: 0,
            counts,
            acknowledged,
        }
    }

    fn run(&mut self) -> Result<(), String> {
        let mut failures = 0;
        loop {
            let before = self.counts.acknowledged;
            let why = match self.connect().and_then(|stream| self.session(&stream)) {
                Ok(()) => return Ok(()),
                Err(Trouble::Broken(why)) => why,
                Err(Trouble::Final(why)) => return Err(format!("client {:032x}: {why}", self.client)),
            };
            failures = if self.counts.acknowledged > before { 1 } else { failures + 1 };
            if failures >= self.options.attempts {
                let left = self.waiting.len();
                return Err(format!("client {:032x}: given up with {left} lines left: {why}", self.client));
            }
            thread::sleep(self.options.backoff * (1 << failures.min(6)) / 2);
        }
    }

    fn connect(&mut self) -> Result<TcpStream, Trouble> {
        let address = match &self.options.server {
            Server::Address(address) => address.clone(),
            Server::PortFile(file) => fs::read_to_string(file)?.trim().to_owned(),
        };
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        self.counts.connections += 1;
        Ok(stream)
    }

    /// Sends all that is not acknowledged, then the end of the session.
    fn session(&mut self, mut stream: &TcpStream) -> Result<(), Trouble> {
        (self.in_flight, self.pause) = (0, None);
        let (mut out, mut held, mut chunk) = (Vec::new(), Vec::new(), [0; 4 << 10]);
        let mut ending = false;
        loop {
            if self.in_flight == 0 {
                thread::sleep(self.pause.take().unwrap_or_default());
            }
            self.fill(&mut out)?;
            if self.waiting.is_empty() && !ending {
                ending = true;
                encode(&Frame::End { client: self.client }, &mut out)?;
            }
            stream.write_all(&out)?;
            out.clear();
            match stream.read(&mut chunk)? {
                0 => return Err(Trouble::Broken("the server closed the connection".to_owned())),
                read => held.extend_from_slice(&chunk[..read]),
            }
            let mut used = 0;
            while let Some((frame, bytes)) =
                wire::decode(&held[used..], 0).map_err(|error| Trouble::Broken(error.to_string()))?
            {
                used += bytes;
                match frame {
                    Frame::Ended { answer: Ok(_), .. } => return Ok(()),
                    Frame::Ended { answer: Err(nack), .. } => return Err(Trouble::Broken(nack.to_string())),
                    Frame::Answer { seq, answer, .. } => self.answered(seq, answer.err())?,
                    other => return Err(Trouble::Broken(format!("not an answer: {other:?}"))),
                }
            }
            held.drain(..used);
        }
    }

    /// Encodes what may be sent now.
    fn fill(&mut self, out: &mut Vec<u8>) -> Result<(), Trouble> {
        if self.pause.is_some() {
            return Ok(());
        }
        if self.asking && self.in_flight == 0 {
            // The longest line, under a number that is never next: the log answers with its cap or with the next number.
            let payload = self.waiting.iter().max_by_key(|line| line.len()).copied().unwrap_or_default();
            encode(&Frame::Message { client: self.client, seq: u64::MAX, payload }, out)?;
            self.in_flight = 1;
        }
        if self.asking {
            return Ok(());
        }
        let more = self.options.window.saturating_sub(self.in_flight);
        for payload in self.waiting.iter().skip(self.in_flight).take(more) {
            let seq = self.first + self.in_flight as u64;
            encode(&Frame::Message { client: self.client, seq, payload }, out)?;
            self.in_flight += 1;
            self.counts.sent += 1;
            self.counts.resent += u64::from(seq <= self.highest);
            self.highest = self.highest.max(seq);
        }
        Ok(())
    }

    /// Takes the answer to the message that was sent first of those without one.
    fn answered(&mut self, seq: u64, nack: Option<Nack>) -> Result<(), Trouble> {
        self.in_flight = self.in_flight.checked_sub(1).ok_or(Trouble::Broken("one answer too many".to_owned()))?;
        if self.pause.is_some() {
            // Behind a NACK: in vain, or sent again under the same number.
            return Ok(());
        }
        if self.asking {
            return self.cap_answered(nack);
        }
        if seq != self.first {
            return Err(Trouble::Broken(format!("an answer to {seq}, not to {}", self.first)));
        }
        match nack {
            None => {
                self.waiting.pop_front();
                self.first += 1;
                self.counts.acknowledged += 1;
                (self.acknowledged)();
            }
            Some(Nack::Overloaded { retry_after }) => self.pause = Some(retry_after),
            Some(Nack::Full) => self.pause = Some(self.options.backoff * 64),
            Some(nack @ (Nack::TooLong { .. } | Nack::Gap { .. } | Nack::Expired { .. } | Nack::Differs { .. })) => {
                return Err(Trouble::Final(format!("message {seq}: {nack}")));
            }
            Some(nack) => return Err(Trouble::Broken(nack.to_string())),
        }
        Ok(())
    }

    /// Leaves out what the log would not take.
    fn cap_answered(&mut self, nack: Option<Nack>) -> Result<(), Trouble> {
        match nack {
            Some(Nack::Gap { .. }) => self.asking = false,
            Some(Nack::TooLong { cap, .. }) => {
                let before = self.waiting.len();
                self.waiting.retain(|line| line.len() <= cap);
                self.counts.too_long += (before - self.waiting.len()) as u64;
                self.asking = false;
            }
            Some(Nack::Overloaded { retry_after }) => self.pause = Some(retry_after),
            Some(nack) => return Err(Trouble::Broken(nack.to_string())),
            None => return Err(Trouble::Final("the log takes any number: it would not see a gap".to_owned())),
        }
        Ok(())
    }
}

fn encode(frame: &Frame<'_>, out: &mut Vec<u8>) -> Result<(), Trouble> {
    wire::encode(frame, out).map_err(|error| Trouble::Final(error.to_string()))
}
