//! The world that the crowd explores: who follows whom, read from a file or made up from a seed.

use std::error::Error;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use commissary::services::{DmState, UserList};
use flate2::bufread::MultiGzDecoder;

use super::dice::{Dice, mix};

/// The longest list that a following check takes; what a user follows beyond it is not reported.
pub(crate) const LIST_MAX: usize = 6_500;

/// No line of an edge list is longer, in bytes, its end ("\n" or "\r\n") not counted: what is no edge list is not taken into
/// memory whole.
const LINE_MAX: u64 = 1 << 16;

/// A directed graph in compressed rows: the list of the user at place `p` is `targets[starts[p]..starts[p + 1]]`.
pub(crate) struct Graph {
    /// Ascending.
    users: Vec<u64>,
    starts: Vec<usize>,
    /// Ascending within a list.
    targets: Vec<u64>,
    /// What reading it met with, for the user to know.
    pub(crate) notices: Vec<String>,
}

impl Graph {
    /// Keeps each edge once; nobody follows themselves, and nobody follows more than a list holds.
    fn new(mut edges: Vec<(u64, u64)>, mut notices: Vec<String>) -> Self {
        let mut users: Vec<u64> = edges.iter().flat_map(|&(from, to)| [from, to]).collect();
        users.sort_unstable();
        users.dedup();
        let read = edges.len();
        edges.sort_unstable();
        edges.dedup();
        edges.retain(|(from, to)| from != to);
        if edges.len() < read {
            notices
                .push(format!("{} edges are repeated or lead back to where they start: skipped", read - edges.len()));
        }
        let (mut starts, mut targets, mut cut) = (vec![0], Vec::with_capacity(edges.len()), 0);
        let mut rest = edges.as_slice();
        for user in &users {
            let (list, others) = rest.split_at(rest.partition_point(|(from, _)| from <= user));
            targets.extend(list.iter().take(LIST_MAX).map(|(_, to)| *to));
            starts.push(targets.len());
            cut += list.len().saturating_sub(LIST_MAX);
            rest = others;
        }
        if cut > 0 {
            notices.push(format!("lists longer than {LIST_MAX} are reported in part: {cut} edges are left out"));
        }
        Self { users, starts, targets, notices }
    }

    /// A graph in which few users are followed by many, as in real ones. User 0 is among them.
    pub(crate) fn generate(users: u64, seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let mut edges = Vec::new();
        for user in 0..users {
            let list = 1 << dice.below(6);
            for _ in 0..list {
                let known_to = dice.below(users) + 1;
                edges.push((user, dice.below(known_to)));
            }
        }
        Self::new(edges, vec![format!("made up from seed {seed}")])
    }

    /// Reads an edge list, compressed by gzip or not.
    pub(crate) fn read(path: &Path) -> Result<Self, ReadError> {
        Self::decode(BufReader::new(File::open(path)?))
    }

    /// Reads the contents of such a file.
    pub(crate) fn decode(mut input: impl BufRead) -> Result<Self, ReadError> {
        if input.fill_buf()?.starts_with(&[0x1f, 0x8b]) {
            Self::parse(BufReader::new(MultiGzDecoder::new(input)))
        } else {
            Self::parse(input)
        }
    }

    /// Reads an edge list that is not compressed.
    pub(crate) fn parse(mut input: impl BufRead) -> Result<Self, ReadError> {
        let (mut edges, mut notices, mut first) = (Vec::new(), Vec::new(), true);
        let mut bytes = Vec::new();
        for number in 1.. {
            bytes.clear();
            if input.by_ref().take(LINE_MAX + 2).read_until(b'\n', &mut bytes)? == 0 {
                break;
            }
            let line = bytes.strip_suffix(b"\r\n").or_else(|| bytes.strip_suffix(b"\n")).unwrap_or(&bytes);
            if line.len() as u64 > LINE_MAX {
                return Err(ReadError::Line { number, what: format!("longer than {LINE_MAX} bytes") });
            }
            let text = String::from_utf8_lossy(&bytes);
            match Line::parse(text.trim_start_matches('\u{feff}').trim(), first) {
                Ok(Line::Nothing) => continue,
                Ok(Line::Header) => notices.push(format!("line {number}, \"{}\", is a header: skipped", text.trim())),
                Ok(Line::Edge(from, to)) => edges.push((from, to)),
                Err(what) => return Err(ReadError::Line { number, what }),
            }
            first = false;
        }
        if edges.is_empty() { Err(ReadError::NoEdges) } else { Ok(Self::new(edges, notices)) }
    }

    /// Every user, ascending.
    pub(crate) fn users(&self) -> &[u64] {
        &self.users
    }

    pub(crate) fn edges(&self) -> usize {
        self.targets.len()
    }

    fn place(&self, user: u64) -> Option<usize> {
        self.users.binary_search(&user).ok()
    }

    /// Whom a user follows, ascending; nobody, if there is no such user.
    pub(crate) fn followed_by(&self, user: u64) -> &[u64] {
        self.place(user).map_or(&[], |place| self.list(place))
    }

    fn list(&self, place: usize) -> &[u64] {
        &self.targets[self.starts[place]..self.starts[place + 1]]
    }

    /// What a client sees when it looks up whom a user follows. It cannot know that a list as long as can be is whole.
    pub(crate) fn following(&self, user: u64) -> UserList {
        let users = self.followed_by(user).to_vec();
        UserList { complete: users.len() < LIST_MAX, users }
    }

    /// What a client sees when it looks up whether a user takes messages. The same for every client.
    pub(crate) fn dm_state(user: u64) -> DmState {
        match mix(user) % 8 {
            0..4 => DmState::Open,
            4..7 => DmState::Closed,
            _ => DmState::Unknown,
        }
    }

    /// The users to add by hand so that following leads to everyone: those whom nobody follows, then the smallest of
    /// each part that these do not lead to.
    pub(crate) fn roots(&self) -> Vec<u64> {
        let mut followed = vec![false; self.users.len()];
        for place in self.targets.iter().filter_map(|user| self.place(*user)) {
            followed[place] = true;
        }
        let mut roots: Vec<usize> = (0..self.users.len()).filter(|place| !followed[*place]).collect();
        let mut reached = vec![false; self.users.len()];
        for root in &roots {
            self.explore(*root, &mut reached);
        }
        for place in 0..self.users.len() {
            if !reached[place] {
                self.explore(place, &mut reached);
                roots.push(place);
            }
        }
        roots.into_iter().map(|place| self.users[place]).collect()
    }

    fn explore(&self, root: usize, reached: &mut [bool]) {
        let mut frontier = vec![root];
        while let Some(place) = frontier.pop() {
            if !std::mem::replace(&mut reached[place], true) {
                frontier.extend(self.list(place).iter().filter_map(|user| self.place(*user)));
            }
        }
    }

    /// Numbers that name no user, none of them 0: for clients, who must not be asked about themselves.
    pub(crate) fn unused_ids(&self) -> impl Iterator<Item = u64> + '_ {
        (1..).filter(|id| self.place(*id).is_none())
    }

    /// A number that names no user.
    pub(crate) fn nobody(&self, dice: &mut Dice) -> u64 {
        loop {
            let id = dice.below(u64::MAX);
            if self.place(id).is_none() {
                return id;
            }
        }
    }

    /// Tells this graph from others.
    pub(crate) fn fingerprint(&self) -> u64 {
        let numbers = self.users.iter().chain(&self.targets).copied();
        let lengths = self.starts.iter().map(|start| *start as u64);
        numbers.chain(lengths).fold(0, |print, number| mix(print ^ number))
    }
}

enum Line {
    /// Empty, or a comment.
    Nothing,
    Header,
    Edge(u64, u64),
}

impl Line {
    fn parse(line: &str, first: bool) -> Result<Self, String> {
        if line.is_empty() || line.starts_with(['#', '%']) {
            return Ok(Self::Nothing);
        }
        let mut fields = line.split_whitespace();
        let (Some(from), Some(to)) = (fields.next(), fields.next()) else {
            return Err(format!("two user ids expected, found only {line:?}"));
        };
        if first && [from, to].iter().all(|field| field.starts_with(|c: char| c.is_ascii_alphabetic())) {
            return Ok(Self::Header);
        }
        if let Some(extra) = fields.find(|field| field.parse::<f64>().is_err()) {
            return Err(format!("after the two user ids only numbers may follow (a weight, a time), found {extra:?}"));
        }
        let id = |field: &str| field.parse().map_err(|_| format!("{field:?} is not a user id (0 to {})", u64::MAX));
        Ok(Self::Edge(id(from)?, id(to)?))
    }
}

/// Why an edge list could not be read.
#[derive(Debug)]
pub(crate) enum ReadError {
    Io(io::Error),
    Line { number: u64, what: String },
    NoEdges,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "cannot be read: {error}"),
            Self::Line { number, what } => write!(f, "line {number}: {what}"),
            Self::NoEdges => f.write_str("the edge list has no edges"),
        }
    }
}

impl Error for ReadError {}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
