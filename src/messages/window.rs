//! What is remembered of each client, to tell a repeat from a new message: a window of its last numbers.
//!
//! The windows are a function of the entries in the file, in their order, and of the terms: replay makes the same ones.

use std::collections::{HashMap, VecDeque};

use foldhash::fast::RandomState;

use super::frame::WindowBody;
use super::receipt::Nack;

/// What a number that does not follow its client's last one means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gaps {
    /// A client's messages are numbered 1, 2, 3 and so on; one that does not follow the last is refused
    /// ([`Nack::Gap`]). So the log holds each client's messages without a hole and in order, also when a client sends many
    /// ahead and one of them is refused. The default.
    Strict,
    /// Any number that was not taken before is taken, in the order in which they come.
    Loose,
}

/// How much is remembered, and how numbers are judged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub(super) gaps: Gaps,
    /// Numbers remembered of a client.
    pub(super) window: usize,
    /// Clients remembered.
    pub(super) clients: usize,
}

/// A message that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) seq: u64,
    pub(super) position: u64,
    /// CRC-32 of its payload.
    pub(super) crc: u32,
}

/// Entries of the order that may be out of date, beside as many as there are clients.
const ORDER_SPARE: usize = 64;

/// What a number is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    New,
    /// It was taken, and stands at this position.
    Repeat(u64),
    Refused(Nack),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Client {
    /// Numbers up to this one are not remembered one by one.
    floor: Option<u64>,
    /// By number, ascending.
    known: VecDeque<Known>,
    /// Position of the last message taken.
    last: u64,
}

impl Client {
    fn find(&self, seq: u64) -> Result<&Known, usize> {
        // Most are the next one.
        if self.known.back().is_none_or(|last| last.seq < seq) {
            return Err(self.known.len());
        }
        let place = self.known.binary_search_by_key(&seq, |known| known.seq)?;
        self.known.get(place).ok_or(place)
    }

    /// Forgets the lowest numbers, while there are more than so many.
    fn trim(&mut self, window: usize) {
        while self.known.len() > window {
            self.floor = self.known.pop_front().map(|known| known.seq).max(self.floor);
        }
    }

    /// The highest number taken.
    fn last_seq(&self) -> u64 {
        self.known.back().map(|known| known.seq).or(self.floor).unwrap_or(0)
    }
}

/// The windows of all clients.
#[derive(Debug)]
pub(super) struct Windows {
    terms: Terms,
    clients: HashMap<u128, Client, RandomState>,
    /// Positions of messages taken, ascending, and whose they are: the first that is still its client's last names who was
    /// silent longest.
    order: VecDeque<(u64, u128)>,
}

impl Windows {
    pub(super) fn new(terms: Terms) -> Self {
        Self { terms, clients: HashMap::default(), order: VecDeque::new() }
    }

    /// What a message would be. `ahead` is the client's highest number among messages that are about to be taken.
    pub(super) fn judge(&self, client: u128, seq: u64, crc: u32, ahead: Option<u64>) -> Verdict {
        let client = self.clients.get(&client);
        match client.map(|client| client.find(seq)) {
            Some(Ok(known)) if known.crc == crc => return Verdict::Repeat(known.position),
            Some(Ok(known)) => return Verdict::Refused(Nack::Differs { position: known.position }),
            _ => {}
        }
        let floor = client.and_then(|client| client.floor);
        if let Some(floor) = floor.filter(|floor| seq <= *floor) {
            return Verdict::Refused(Nack::Expired { oldest: floor.saturating_add(1) });
        }
        let last = ahead.unwrap_or_else(|| client.map_or(0, Client::last_seq));
        match self.terms.gaps {
            Gaps::Strict if last.checked_add(1) != Some(seq) => {
                Verdict::Refused(Nack::Gap { expected: last.saturating_add(1) })
            }
            _ => Verdict::New,
        }
    }

    /// A message was taken.
    pub(super) fn take(&mut self, client: u128, message: Known) {
        let Known { seq, position, .. } = message;
        let strict = self.terms.gaps == Gaps::Strict;
        let mut before = None;
        let change = |entry: &mut Client| before = Some(std::mem::replace(&mut entry.last, position));
        let new = || Client { floor: seq.checked_sub(1).filter(|_| strict), known: VecDeque::new(), last: position };
        let entry = self.clients.entry(client).and_modify(change).or_insert_with(new);
        match entry.find(seq) {
            Ok(_) => {}
            Err(place) => entry.known.insert(place, message),
        }
        entry.trim(self.terms.window);
        self.note_last(before, position, client);
        self.forget();
    }

    /// Notes a client's last message, and that of `before` no more. What is out of date goes when it is most of the list: a
    /// step per message, on average.
    fn note_last(&mut self, before: Option<u64>, position: u64, client: u128) {
        if before == Some(position) {
            // Noted already. Only behind a loss can two messages be said to stand at one position.
            return;
        }
        self.order.push_back((position, client));
        if self.order.len() > 2 * self.clients.len() + ORDER_SPARE {
            let clients = &self.clients;
            self.order.retain(|(position, client)| clients.get(client).is_some_and(|entry| entry.last == *position));
        }
    }

    /// Forgets who was silent longest, while there are too many.
    fn forget(&mut self) {
        while self.clients.len() > self.terms.clients {
            let Some((position, client)) = self.order.pop_front() else { break };
            if self.clients.get(&client).is_some_and(|entry| entry.last == position) {
                self.clients.remove(&client);
            }
        }
    }

    /// What a compaction kept of a client.
    pub(super) fn restore(&mut self, body: WindowBody) {
        let WindowBody { client, last, floor, known } = body;
        let mut kept = Client { floor, known: known.into(), last };
        kept.trim(self.terms.window);
        let before = self.clients.insert(client, kept).map(|before| before.last);
        self.note_last(before, last, client);
        self.forget();
    }

    /// Everything, by how long clients have been silent; the longest first.
    pub(super) fn bodies(&self) -> impl Iterator<Item = WindowBody> + '_ {
        let last =
            |(position, id): &(u64, u128)| Some((*id, self.clients.get(id).filter(|entry| entry.last == *position)?));
        let clients = self.order.iter().filter_map(last);
        clients.map(|(client, Client { floor, known, last })| WindowBody {
            client,
            last: *last,
            floor: *floor,
            known: known.iter().copied().collect(),
        })
    }

    /// The highest number taken of a client; 0 if none is known.
    pub(super) fn last_seq(&self, client: u128) -> u64 {
        self.clients.get(&client).map_or(0, Client::last_seq)
    }

    /// Clients remembered.
    pub(super) fn len(&self) -> usize {
        self.clients.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(window: usize, clients: usize) -> Terms {
        Terms { gaps: Gaps::Loose, window, clients }
    }

    fn known(seq: u64, position: u64) -> Known {
        Known { seq, position, crc: 0 }
    }

    fn body(client: u128, last: u64, seqs: std::ops::RangeInclusive<u64>) -> WindowBody {
        WindowBody { client, last, floor: None, known: seqs.map(|seq| known(seq, last)).collect() }
    }

    /// R105: a window that a compaction kept under other terms is cut to those that hold now, as replay would.
    #[test]
    fn what_a_compaction_kept_is_cut_to_the_terms() {
        let (mut taken, mut restored) = (Windows::new(terms(3, 9)), Windows::new(terms(3, 9)));
        for seq in 1..=10 {
            taken.take(1, known(seq, 100));
        }
        restored.restore(body(1, 100, 1..=10));
        assert_eq!(restored.judge(1, 7, 0, None), Verdict::Refused(Nack::Expired { oldest: 8 }));
        assert_eq!(restored.clients, taken.clients);
    }

    /// R105: the bound on clients holds also where two of them are said to have been last at one position.
    #[test]
    fn clients_of_one_position_are_told_apart() {
        let mut windows = Windows::new(terms(3, 4));
        for client in 0..4 {
            windows.restore(body(client, 7, 1..=2));
        }
        assert_eq!(windows.bodies().count(), 4);
        for client in 10..30 {
            windows.take(client, known(1, 100 + u64::try_from(client).unwrap()));
            assert_eq!((windows.len(), windows.bodies().count()), (4, 4));
        }
    }

    /// A client that is said twice to have been last at one position, which a salvage can bring about, stands once.
    #[test]
    fn a_client_stands_once_however_often_it_is_noted() {
        let mut windows = Windows::new(terms(3, 2));
        windows.restore(body(1, 7, 1..=2));
        windows.take(1, known(3, 7));
        windows.take(2, known(1, 8));
        assert_eq!(windows.bodies().map(|body| body.client).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn who_was_silent_longest_is_forgotten_however_much_the_others_sent() {
        let mut windows = Windows::new(Terms { gaps: Gaps::Strict, window: 4, clients: 3 });
        let mut position = 0;
        let mut take = |windows: &mut Windows, client, seq| {
            position += 1;
            windows.take(client, Known { seq, position, crc: 0 });
        };
        take(&mut windows, 1, 1);
        for seq in 1..=10_000 {
            take(&mut windows, 2, seq);
            take(&mut windows, 3, seq);
        }
        assert!(windows.order.len() <= 2 * windows.len() + ORDER_SPARE + 1, "what is out of date is dropped");
        take(&mut windows, 4, 1);
        assert_eq!(windows.bodies().map(|body| body.client).collect::<Vec<_>>(), [2, 3, 4]);
        take(&mut windows, 2, 10_001);
        take(&mut windows, 1, 1);
        assert_eq!(windows.bodies().map(|body| body.client).collect::<Vec<_>>(), [4, 2, 1]);
        assert_eq!((windows.last_seq(2), windows.last_seq(3)), (10_001, 0));
    }
}
