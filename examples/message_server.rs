//! Collects messages from any number of connections in one file: a TCP server over the message log.
//!
//! ```text
//! message_server FILE|DIRECTORY [--listen ADDR] [--cap BYTES] [--timeout SECS] [--connections N] [--port-file FILE]
//! ```
//!
//! What goes over the wire is in [`commissary::messages::wire`]. A connection's messages are answered in their order, however
//! many are under way. A session ends when its client says so, is silent for the timeout, or is gone. Bytes that are no
//! frame end the connection. Clients are whoever they say they are: strangers must be kept out by other means.
#![expect(clippy::print_stdout, reason = "an example talks to its user")]

use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{env, error::Error, fs, path::PathBuf, process::ExitCode, thread, time::Duration};

use commissary::messages::wire::{self, Frame};
use commissary::messages::{Journal, Nack, Receipt};

/// Frames are read up to this payload, so that a message beyond a smaller cap gets its NACK.
const WIRE_CAP: usize = 64 << 10;
/// Messages of one connection whose answers are not sent yet, at most; then no more are read.
const UNANSWERED_MAX: usize = 256;
/// Clients that one connection may speak for.
const CLIENTS_MAX: usize = 64;

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> ExitCode {
    let Err(error) = run(env::args().skip(1)) else { return ExitCode::SUCCESS };
    eprintln!("message_server: {error}");
    ExitCode::FAILURE
}

/// Serves until told to end.
pub(crate) fn run(mut args: impl Iterator<Item = String>) -> Result<(), Failure> {
    let file = PathBuf::from(args.next().ok_or("which file?")?);
    let file = if file.is_dir() { file.join("messages") } else { file };
    let names = ["--listen", "--cap", "--timeout", "--connections", "--port-file"];
    let mut options = ["127.0.0.1:7103", "256", "60", "256", ""].map(str::to_owned);
    while let Some(name) = args.next() {
        let place = names.iter().position(|known| *known == name).ok_or_else(|| format!("{name} is not known"))?;
        options[place] = args.next().ok_or_else(|| format!("{name} needs a value"))?;
    }
    let [listen, cap, timeout, connections, port_file] = options;
    let timeout = Duration::try_from_secs_f64(timeout.parse()?)?;
    let (cap, connections) = (cap.parse()?, connections.parse()?);
    let journal = Journal::builder().cap(cap).open(file)?;
    let listener = TcpListener::bind(listen)?;
    let address = listener.local_addr()?;
    println!("listening on {address}; the log goes from position {} to {}", journal.first(), journal.end());
    let open = Mutex::new(Some(HashMap::new()));
    let server = Arc::new(Server { journal, address, cap, timeout, connections, open });
    let ender = Arc::clone(&server);
    ctrlc::set_handler(move || ender.end())?;
    if !port_file.is_empty() {
        fs::write(format!("{port_file}.new"), format!("{address}\n"))?;
        fs::rename(format!("{port_file}.new"), port_file)?; // whoever sees the file sees all of it
    }
    server.listen(&listener);
    Ok(server.journal.close()?)
}

/// The connections by number; none any more when the server ends.
type Open = Option<HashMap<usize, Arc<TcpStream>>>;

/// An answer that is owed: to whom, to which message (to none: to the end of a session), and where it will come from.
type Owed = (u128, Option<u64>, Receipt);

struct Server {
    journal: Journal,
    address: SocketAddr,
    cap: usize,
    timeout: Duration,
    connections: usize,
    open: Mutex<Open>,
}

impl Server {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes connections, each with a thread of its own, until the server ends and they have all ended.
    fn listen(&self, listener: &TcpListener) {
        thread::scope(|scope| {
            for (number, stream) in listener.incoming().enumerate() {
                let Ok(stream) = stream.map(Arc::new) else { continue };
                match &mut *self.open() {
                    None => break,
                    Some(open) if open.len() >= self.connections => continue,
                    Some(open) => drop(open.insert(number, Arc::clone(&stream))),
                }
                let close = move || self.open().as_mut().and_then(|open| open.remove(&number));
                let serve = move || {
                    let served = self.serve(&stream);
                    served.unwrap_or_else(|error| eprintln!("connection {number}: {error}"));
                    close();
                };
                if thread::Builder::new().spawn_scoped(scope, serve).is_err() {
                    close();
                }
            }
        });
    }

    /// Nothing more is read; what was read is answered.
    fn end(&self) {
        if let Some(open) = self.open().take() {
            for stream in open.values() {
                drop(stream.shutdown(Shutdown::Read));
            }
            drop(TcpStream::connect(self.address)); // the listener looks up
        }
    }

    /// One connection, from its first byte to its last answer.
    fn serve(&self, stream: &TcpStream) -> Result<(), Failure> {
        stream.set_read_timeout(Some(self.timeout))?;
        stream.set_write_timeout(Some(self.timeout))?;
        stream.set_nodelay(true)?;
        thread::scope(|scope| {
            let (owe, owed) = mpsc::sync_channel(UNANSWERED_MAX);
            thread::Builder::new().spawn_scoped(scope, move || self.answer(stream, &owed))?;
            let mut clients = HashSet::new();
            let ended = self.read(stream, &mut clients, &owe);
            for client in clients {
                drop(owe.send((client, None, self.journal.end_session(client))));
            }
            ended
        })
    }

    /// Takes messages until there are no more.
    fn read(&self, mut stream: &TcpStream, clients: &mut HashSet<u128>, owe: &SyncSender<Owed>) -> Result<(), Failure> {
        let cap = self.cap.max(WIRE_CAP);
        let (mut held, mut chunk) = (Vec::new(), [0; 16 << 10]);
        loop {
            let mut used = 0;
            while let Some((frame, bytes)) = wire::decode(&held[used..], cap)? {
                used += bytes;
                match frame {
                    Frame::Message { client, seq, payload } => {
                        if clients.insert(client) && clients.len() > CLIENTS_MAX {
                            return Err(format!("speaks for more than {CLIENTS_MAX} clients").into());
                        }
                        owe.send((client, Some(seq), self.journal.append(client, seq, payload)))?;
                    }
                    Frame::End { client } => {
                        clients.remove(&client);
                        owe.send((client, None, self.journal.end_session(client)))?;
                    }
                    Frame::Answer { .. } | Frame::Ended { .. } => return Err("answers, and was not asked".into()),
                }
            }
            held.drain(..used);
            match stream.read(&mut chunk) {
                Ok(read @ 1..) => held.extend_from_slice(&chunk[..read]),
                _ => return Ok(()), // closed, broken, or silent for the timeout
            }
        }
    }

    /// Sends answers as they come, in the order of the messages. A client that does not take them loses its connection.
    fn answer(&self, stream: &TcpStream, owed: &Receiver<Owed>) {
        let mut out = Vec::new();
        let mut next = owed.recv().ok();
        while let Some((client, seq, receipt)) = next {
            let answer = receipt.answer().unwrap_or_else(|| {
                send(stream, &mut out);
                receipt.wait()
            });
            if let Err(Nack::Io { .. }) = answer {
                // The log takes nothing more until it is opened anew: by whoever starts this program again.
                self.end();
            }
            let ended = Frame::Ended { client, answer };
            let frame = seq.map_or(ended, |seq| Frame::Answer { client, seq, answer });
            if wire::encode(&frame, &mut out).is_err() || out.len() >= 8 << 10 {
                send(stream, &mut out);
            }
            next = owed.try_recv().ok().or_else(|| {
                send(stream, &mut out);
                owed.recv().ok()
            });
        }
        drop(stream.shutdown(Shutdown::Both));
    }
}

/// Sends what is there, and leaves nothing. On an error the connection is closed, which its reader notices.
fn send(mut stream: &TcpStream, out: &mut Vec<u8>) {
    if stream.write_all(out).is_err() {
        drop(stream.shutdown(Shutdown::Both));
    }
    out.clear();
}
