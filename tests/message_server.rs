//! The example server, client and reader of the message log, together: lines sent over connections that break, by a server that is killed,
//! stand in the file once, in order, byte for byte.
//!
//! The server is this program, run again as a child of the test.
#![cfg(unix)]

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use commissary::messages::wire::{self, Frame};
use commissary::messages::{Journal, Nack};
use tempfile::TempDir;

#[path = "../examples/message_client.rs"]
#[expect(dead_code, reason = "its command line")]
mod client;
#[path = "../examples/journal_reader.rs"]
#[expect(dead_code, reason = "its command line")]
mod reader;
#[path = "../examples/message_server.rs"]
#[expect(dead_code, reason = "its main function")]
mod server;

const ARGS: &str = "COMMISSARY_MESSAGE_SERVER_ARGS";

/// The child: with arguments, the server.
#[test]
fn child_serves_until_it_ends() {
    if let Ok(args) = env::var(ARGS) {
        server::run(args.split('\n').map(str::to_owned)).unwrap();
    }
}

/// A server in a process of its own; killed when dropped.
struct Running {
    child: Child,
    address: String,
    /// Kept open, so that the child may write to it.
    _out: BufReader<ChildStdout>,
}

impl Running {
    fn signal(&self, name: &str) {
        let done = Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(done.success());
    }

    /// Asks it to end, and waits until it has.
    fn end(mut self) -> ExitStatus {
        self.signal("-TERM");
        self.child.wait().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Two directories: one for the log alone, one for the file that says where the server is.
struct Place {
    log: TempDir,
    beside: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { log: tempfile::tempdir().unwrap(), beside: tempfile::tempdir().unwrap() }
    }

    fn port_file(&self) -> PathBuf {
        self.beside.path().join("port")
    }

    fn file(&self) -> PathBuf {
        self.log.path().join("messages")
    }

    /// Starts a server; returns when it listens.
    fn start(&self, more: &[&str]) -> Running {
        let (log, port_file) = (self.log.path().display().to_string(), self.port_file().display().to_string());
        let mut args = vec![log.as_str(), "--listen", "127.0.0.1:0", "--port-file", &port_file];
        args.extend(more);
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "child_serves_until_it_ends", "--nocapture", "--test-threads=1"])
            .env(ARGS, args.join("\n"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        // The harness says something first.
        let address = loop {
            line.clear();
            assert_ne!(out.read_line(&mut line).unwrap(), 0, "the server ended before it listened");
            if let Some((_, rest)) = line.split_once("listening on ") {
                break rest.split_once(';').unwrap().0.to_owned();
            }
        };
        Running { child, address, _out: out }
    }

    fn options(&self, id: u128) -> client::Options {
        let server = client::Server::PortFile(self.port_file());
        client::Options { backoff: Duration::from_millis(5), ..client::Options::new(server, id) }
    }

    /// All entries, as the reference reader reads them.
    fn entries(&self) -> Vec<Said> {
        read(&self.file()).unwrap()
    }
}

/// An entry of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Said {
    position: u64,
    kind: u8,
    client: u128,
    seq: u64,
    payload: Vec<u8>,
}

const MESSAGE: u8 = 1;
const END: u8 = 2;

fn read(file: &Path) -> Result<Vec<Said>, String> {
    let mut entries = Vec::new();
    reader::read(&fs::read(file).unwrap(), |position, kind, client, seq, _, payload| {
        entries.push(Said { position, kind, client, seq, payload: payload.to_vec() });
        Ok(())
    })
    .map_err(|error| error.to_string())?;
    Ok(entries)
}

/// A connection, spoken to frame by frame.
struct Wire {
    stream: TcpStream,
    held: Vec<u8>,
}

impl Wire {
    fn to(running: &Running) -> Self {
        Self { stream: TcpStream::connect(&running.address).unwrap(), held: Vec::new() }
    }

    fn send(&mut self, frame: &Frame<'_>) {
        let mut bytes = Vec::new();
        wire::encode(frame, &mut bytes).unwrap();
        self.stream.write_all(&bytes).unwrap();
    }

    fn message(&mut self, client: u128, seq: u64, payload: &[u8]) {
        self.send(&Frame::Message { client, seq, payload });
    }

    /// The next frame, or none if the other side closed the connection.
    fn next<T>(&mut self, each: impl FnOnce(Frame<'_>) -> T) -> Option<T> {
        let mut chunk = [0; 4096];
        loop {
            if let Some((frame, used)) = wire::decode(&self.held, 1 << 20).unwrap() {
                let said = each(frame);
                self.held.drain(..used);
                return Some(said);
            }
            match self.stream.read(&mut chunk) {
                Ok(0) | Err(_) => return None,
                Ok(read) => self.held.extend_from_slice(&chunk[..read]),
            }
        }
    }

    /// The answer to a message: its number, and its position or why not.
    fn answer(&mut self) -> (u64, Result<u64, Nack>) {
        let answer = self.next(|frame| match frame {
            Frame::Answer { seq, answer, .. } => (seq, answer.map(|ack| ack.position)),
            other => panic!("not an answer: {other:?}"),
        });
        answer.expect("an answer")
    }

    fn is_closed(&mut self) -> bool {
        self.next(|frame| panic!("not the end: {frame:?}")).is_none()
    }
}

/// Made-up lines of different lengths, with different ends; the last one has none.
fn made_up(lines: usize) -> Vec<u8> {
    let line = |i: usize| {
        let end = if i % 7 == 3 { "\n" } else { "\r\n" };
        let text = if i % 50 == 20 { String::new() } else { format!("line {i} {}", "-".repeat(i * 7 % 90)) };
        if i + 1 == lines { text.into_bytes() } else { (text + end).into_bytes() }
    };
    (0..lines).flat_map(line).collect()
}

/// What each client said, in its order.
fn by_client(entries: &[Said]) -> BTreeMap<u128, Vec<&[u8]>> {
    let mut clients: BTreeMap<u128, Vec<&[u8]>> = BTreeMap::new();
    for said in entries.iter().filter(|said| said.kind == MESSAGE) {
        clients.entry(said.client).or_default().push(&said.payload);
    }
    clients
}

/// R103, R104, R106, R108, R119: over several connections and several kills of the server in the middle of it, every line that was sent
/// is in the one file once, in its sender's order, byte for byte; a session's end stands behind its messages.
#[test]
fn every_line_is_in_the_file_once_across_kills() {
    const LINES: usize = 3_000;
    const KILLS: usize = 5;
    let place = Place::new();
    let bytes = made_up(LINES);
    let lines: Vec<&[u8]> = client::lines(&bytes).collect();
    assert_eq!(lines.len(), LINES);
    let id = 0xfeed_0000;
    // How many are acknowledged, and the server. Whoever gets the answer that counts kills it; nobody goes on meanwhile.
    let scene = Mutex::new((0, Some(place.start(&[]))));
    let acknowledged = || {
        let (count, running) = &mut *scene.lock().unwrap();
        *count += 1;
        if *count % (LINES / (KILLS + 1)) == 0 && *count < LINES {
            drop(running.take());
            *running = Some(place.start(&[]));
        }
    };
    let (counts, errors) = client::send(&lines, &place.options(id), &acknowledged);
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!((counts.acknowledged, counts.too_long), (LINES as u64, 0));
    assert_eq!(counts.sent, counts.acknowledged + counts.resent);
    assert!(counts.connections >= 4 + KILLS as u64, "{counts:?}");
    assert!(scene.into_inner().unwrap().1.unwrap().end().success());

    let names: Vec<_> = fs::read_dir(place.log.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["messages"]);
    let entries = place.entries();
    assert_eq!(entries.iter().filter(|said| said.kind == MESSAGE).count(), LINES);
    assert!(entries.is_sorted_by(|one, next| one.position < next.position));
    let clients = by_client(&entries);
    assert_eq!(clients.len(), 4);
    for (i, (client, said)) in clients.into_iter().enumerate() {
        assert_eq!(client, id + i as u128);
        let sent: Vec<&[u8]> = lines.iter().copied().skip(i).step_by(4).collect();
        assert!(said == sent, "client {i}: {} of {}", said.len(), sent.len());
        let last = entries.iter().rfind(|said| said.client == client).unwrap();
        assert_eq!(last.kind, END);
    }
}

/// R106, R119: a line that is longer than the server's cap gets its NACK, is counted, and holds up no other.
#[test]
fn lines_beyond_the_cap_are_counted_and_the_others_are_sent() {
    let place = Place::new();
    let running = place.start(&["--cap", "20"]);
    let long = "a line of more than twenty bytes\r\n";
    let text = format!("one\r\n{long}two\r\n{long}three\r\n\r\n{long}{long}last");
    let lines: Vec<&[u8]> = client::lines(text.as_bytes()).collect();
    let options = client::Options { connections: 1, ..place.options(5) };
    let (counts, errors) = client::send(&lines, &options, &|| {});
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!((counts.sent, counts.acknowledged, counts.too_long, counts.connections), (5, 5, 4, 1));
    // The client's own limit, lower than the server's: nothing of the kind is sent.
    let options = client::Options { connections: 1, cap: 5, ..place.options(6) };
    let (counts, errors) = client::send(&lines, &options, &|| {});
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!((counts.sent, counts.acknowledged, counts.too_long), (4, 4, 5));
    assert!(running.end().success());
    let entries = place.entries();
    let clients = by_client(&entries);
    let short: [&[u8]; 5] = [b"one\r\n", b"two\r\n", b"three\r\n", b"\r\n", b"last"];
    assert_eq!(clients[&5], short);
    assert_eq!(clients[&6], [short[0], short[1], short[3], short[4]]);
}

/// R118: bytes that are no frame end their connection, after the messages before them were answered; the server and other
/// connections go on.
#[test]
fn server_lives_on_after_bytes_that_are_no_frame() {
    let place = Place::new();
    let running = place.start(&[]);
    let mut steady = Wire::to(&running);
    let mut whole = Vec::new();
    wire::encode(&Frame::Message { client: 9, seq: 2, payload: b"damaged." }, &mut whole).unwrap();
    let flipped = |byte: usize| {
        let mut bytes = whole.clone();
        bytes[byte] ^= 1;
        bytes
    };
    let mut answer = Vec::new();
    wire::encode(&Frame::Answer { client: 9, seq: 2, answer: Err(Nack::Full) }, &mut answer).unwrap();
    let unknown = framed(&[&[77][..], &[0; 16]].concat());
    let bad = [
        // Longer than anything that is read, before a byte of it is there; shorter than any frame.
        vec![0xff; 4],
        vec![0; 4],
        // A checksum, a payload and a length that are not those that were sent.
        flipped(5),
        flipped(whole.len() - 1),
        flipped(3),
        unknown,
        answer,
    ];
    for (i, bad) in (0..).zip(&bad) {
        let mut wire = Wire::to(&running);
        wire.message(100 + i, 1, b"good");
        assert!(wire.answer().1.is_ok(), "case {i}");
        wire.stream.write_all(bad).unwrap();
        // The end of the session that the good message had begun, then nothing.
        let ended = wire.next(|frame| matches!(frame, Frame::Ended { answer: Ok(_), .. }));
        assert_eq!(ended, Some(true), "case {i}");
        assert!(wire.is_closed(), "case {i}");
        steady.message(8, u64::try_from(i).unwrap() + 1, b"steady");
        assert!(steady.answer().1.is_ok(), "case {i}");
    }
    drop(steady);
    assert!(running.end().success());
    let entries = place.entries();
    assert_eq!(by_client(&entries)[&8].len(), bad.len());
    assert!(!by_client(&entries).contains_key(&9));
}

/// R106: what the wire carries and the log does not take is answered with the reason, and the connection goes on.
#[test]
fn refusals_are_answered_in_the_order_of_the_messages() {
    let place = Place::new();
    let running = place.start(&["--cap", "10"]);
    let mut wire = Wire::to(&running);
    wire.message(1, 1, b"0123456789");
    wire.message(1, 2, b"0123456789a");
    wire.message(1, 3, b"gap");
    wire.message(1, 1, b"other");
    wire.message(1, 1, b"0123456789");
    let (_, first) = wire.answer();
    let first = first.unwrap();
    assert_eq!(wire.answer(), (2, Err(Nack::TooLong { bytes: 11, cap: 10 })));
    assert_eq!(wire.answer(), (3, Err(Nack::Gap { expected: 2 })));
    assert_eq!(wire.answer(), (1, Err(Nack::Differs { position: first })));
    assert_eq!(wire.answer(), (1, Ok(first)));
    drop(wire);
    assert!(running.end().success());
}

/// R116: connections that name the same client are the same client: one sequence, and a repeat gets the first answer.
#[test]
fn connections_with_one_id_are_one_client() {
    let place = Place::new();
    let running = place.start(&[]);
    let id = u128::MAX;
    let (mut one, mut other) = (Wire::to(&running), Wire::to(&running));
    one.message(id, 1, b"from one");
    let (_, first) = one.answer();
    other.message(id, 1, b"from one");
    assert_eq!(other.answer(), (1, first));
    other.message(id, 2, b"from the other");
    let (_, second) = other.answer();
    assert!(second.unwrap() > first.unwrap());
    one.message(id, 2, b"from one");
    assert_eq!(one.answer(), (2, Err(Nack::Differs { position: second.unwrap() })));
    drop((one, other));
    assert!(running.end().success());
    assert_eq!(by_client(&place.entries())[&id], [&b"from one"[..], b"from the other"]);
}

/// R105: a client may have far more messages under way than the server holds for a connection: it reads no more until answers
/// are taken, and each is answered, in order.
#[test]
fn client_that_runs_ahead_is_answered_in_order() {
    const MESSAGES: u64 = 20_000;
    let place = Place::new();
    let running = place.start(&["--cap", "1000"]);
    let mut wire = Wire::to(&running);
    let mut ahead = Wire { stream: wire.stream.try_clone().unwrap(), held: Vec::new() };
    let sending = thread::spawn(move || (1..=MESSAGES).for_each(|seq| ahead.message(1, seq, &[7; 500])));
    let mut last = 0;
    for seq in 1..=MESSAGES {
        let (answered, position) = wire.answer();
        let position = position.unwrap();
        assert!(answered == seq && position >= last, "{answered} at {position} after {last}");
        last = position + 1;
    }
    sending.join().unwrap();
    drop(wire);
    assert!(running.end().success());
    let entries = place.entries();
    assert!(entries.iter().filter(|said| said.kind == MESSAGE).map(|said| said.seq).eq(1..=MESSAGES));
}

/// R119: a session's end is in the file when its client says so, when it is silent for the timeout, when it is gone, and when the
/// server ends.
#[test]
fn end_of_a_session_is_written_however_it_comes() {
    let place = Place::new();
    let running = place.start(&["--timeout", "0.5"]);
    let greet = |client: u128| {
        let mut wire = Wire::to(&running);
        wire.message(client, 1, b"hello");
        assert!(wire.answer().1.is_ok());
        wire
    };
    let ended = |wire: &mut Wire| wire.next(|frame| matches!(frame, Frame::Ended { answer: Ok(_), .. }));
    let mut silent = greet(1);
    let mut polite = greet(2);
    polite.send(&Frame::End { client: 2 });
    assert_eq!(ended(&mut polite), Some(true));
    assert_eq!(ended(&mut silent), Some(true), "it said nothing, and is told");
    assert!(silent.is_closed());
    drop(greet(3));
    let mut last = greet(4);
    assert!(running.end().success());
    assert_eq!(ended(&mut last), Some(true));
    assert!(last.is_closed());
    let entries = place.entries();
    for client in 1..=4 {
        let kinds: Vec<u8> = entries.iter().filter(|said| said.client == client).map(|said| said.kind).collect();
        assert_eq!(kinds, [MESSAGE, END], "client {client}");
    }
}

/// R104: a connection beyond the limit is closed at once, those that are there go on, and their places become free.
#[test]
fn connections_beyond_the_limit_are_turned_away() {
    let place = Place::new();
    let running = place.start(&["--connections", "1"]);
    let mut first = Wire::to(&running);
    first.message(1, 1, b"first");
    assert!(first.answer().1.is_ok());
    assert!(Wire::to(&running).is_closed());
    first.message(1, 2, b"second");
    assert!(first.answer().1.is_ok());
    drop(first);
    let (counts, errors) = client::send(&[b"now\n"], &client::Options { connections: 1, ..place.options(2) }, &|| {});
    assert_eq!((errors, counts.acknowledged), (vec![], 1));
    assert!(running.end().success());
}

/// Answers as a log does that takes numbers in their order, but with these to the messages that come as the n-th; on `Closing` it
/// closes the connection. Returns what it took.
fn play(listener: &TcpListener, mut odd: BTreeMap<u64, Nack>) -> Vec<Vec<u8>> {
    let (mut taken, mut heard) = (Vec::new(), 0);
    loop {
        let mut wire = Wire { stream: listener.accept().unwrap().0, held: Vec::new() };
        loop {
            let said = wire.next(|frame| match frame {
                Frame::Message { seq, payload, .. } => Some((seq, payload.to_vec())),
                _ => None,
            });
            let Some(said) = said else { break };
            let Some((seq, payload)) = said else {
                wire.reply(None, None);
                return taken;
            };
            heard += 1;
            let nack = odd.remove(&heard);
            let expected = taken.len() as u64 + 1;
            let nack = nack.or((seq > expected).then_some(Nack::Gap { expected }));
            if nack.is_none() && seq == expected {
                taken.push(payload);
            }
            wire.reply(Some(seq), nack);
            if nack == Some(Nack::Closing) {
                break;
            }
        }
    }
}

/// A frame of these contents.
fn framed(contents: &[u8]) -> Vec<u8> {
    let len = u32::try_from(contents.len()).unwrap().to_be_bytes();
    let checksum = crc32fast::hash(&[&len[..], contents].concat()).to_be_bytes();
    [&len[..], &checksum, contents].concat()
}

impl Wire {
    /// Acknowledges, or not: a message, or without a number the end of the session.
    fn reply(&mut self, seq: Option<u64>, nack: Option<Nack>) {
        let (client, position) = (7_u128.to_be_bytes(), 0_u64.to_be_bytes());
        let bytes = match (seq, nack) {
            (Some(seq), Some(nack)) => {
                let mut bytes = Vec::new();
                wire::encode(&Frame::Answer { client: 7, seq, answer: Err(nack) }, &mut bytes).unwrap();
                bytes
            }
            (Some(seq), None) => framed(&[&[2][..], &client, &seq.to_be_bytes(), &position, &[0; 9]].concat()),
            (None, _) => framed(&[&[5][..], &client, &position, &[0; 9]].concat()),
        };
        // A client that has gone is not this test's matter.
        drop(self.stream.write_all(&bytes));
    }
}

/// R106: a sender goes on after each kind of refusal that may pass, and what it sent arrives once and in order; one that cannot
/// pass ends it with the reason.
#[test]
fn client_sends_again_what_was_refused() {
    let text: Vec<u8> = (0..200).flat_map(|i| format!("{i}\r\n").into_bytes()).collect();
    let lines: Vec<&[u8]> = client::lines(&text).collect();
    let run = |odd: &[(u64, Nack)]| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = client::Server::Address(listener.local_addr().unwrap().to_string());
        let backoff = Duration::from_micros(100);
        let options = client::Options { connections: 1, backoff, ..client::Options::new(server, 7) };
        let odd: BTreeMap<u64, Nack> = odd.iter().copied().collect();
        let playing = thread::spawn(move || play(&listener, odd));
        (client::send(&lines, &options, &|| {}), playing)
    };
    let retry_after = Duration::from_millis(2);
    let passing = [(1, Nack::Overloaded { retry_after }), (50, Nack::Full), (90, Nack::Overloaded { retry_after })];
    let broken = [(130, Nack::Closing), (170, Nack::Io { kind: std::io::ErrorKind::StorageFull })];
    let ((counts, errors), playing) = run(&[&passing[..], &broken].concat());
    // First: after an error nobody ends what plays the server.
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!(playing.join().unwrap(), lines);
    assert_eq!((counts.acknowledged, counts.sent), (200, 200 + counts.resent));
    assert_eq!(counts.connections, 3);

    let ((counts, errors), _playing) = run(&[(11, Nack::Differs { position: 500 })]);
    // The first that came only asked for the cap.
    assert_eq!(counts.acknowledged, 9);
    assert!(errors.len() == 1 && errors[0].contains("message 10: ") && errors[0].contains("500"), "{errors:?}");
}

/// R108: the reference reader reads what the log reads, and names the first frame that is bad.
#[test]
fn reader_agrees_with_the_log_and_names_the_first_bad_frame() {
    let place = Place::new();
    let journal = Journal::open(place.file()).unwrap();
    let mut positions = Vec::new();
    for seq in 1..=20 {
        positions.push(journal.append(3, seq, format!("message {seq}\r\n").as_bytes()).wait().unwrap().position);
    }
    journal.end_session(3).wait().unwrap();
    let read_by_log: Vec<(u64, u64, Vec<u8>)> = journal
        .read(journal.first())
        .unwrap()
        .map(|message| message.map(|message| (message.position, message.seq, message.payload)).unwrap())
        .collect();
    journal.close().unwrap();
    drop(journal);
    let read_by_reader: Vec<_> =
        place.entries().into_iter().map(|said| (said.position, said.seq, said.payload)).collect();
    assert_eq!(read_by_reader, read_by_log);
    let whole = fs::read(place.file()).unwrap();
    for position in positions {
        let mut damaged = whole.clone();
        damaged[usize::try_from(position).unwrap() + 32 + 50] ^= 4;
        fs::write(place.file(), damaged).unwrap();
        assert_eq!(read(&place.file()), Err(format!("bad frame at position {position}")));
    }
    for bytes in [0, 31] {
        fs::write(place.file(), &whole[..bytes]).unwrap();
        assert_eq!(read(&place.file()), Err("no header".to_owned()));
    }
    let mut damaged = whole.clone();
    damaged[15] ^= 1;
    fs::write(place.file(), damaged).unwrap();
    assert!(read(&place.file()).unwrap_err().contains("header"));
}
