//! Bytes are an edge list, as the example `social_graph` reads it, packed by gzip or not. Reading answers with a graph or an error;
//! an error that names a line names the first that is wrong; a graph has the edges that are in the text, and no others; and what
//! is written again reads the same.
//!
//! The first byte tells whether the rest is taken as it is, or gets packed first: whole, in two parts, or cut short.

#[path = "../../examples/social_graph/dice.rs"]
#[allow(dead_code, reason = "the example has more uses for it")]
mod dice;
#[path = "../../examples/social_graph/graph.rs"]
#[allow(dead_code, reason = "the example has more uses for it")]
mod graph;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};

use flate2::Compression;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;

use super::Seen;
use graph::{Graph, LIST_MAX, ReadError};

/// What the corpus comes through.
pub const STATES: &[&str] =
    &["a graph", "a header", "a line too long", "a list cut", "a wrong line", "cannot be read", "no edges", "packed"];

fn packed(text: &[u8]) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(text).expect("memory is written");
    packer.finish().expect("memory is written")
}

pub fn run(bytes: &[u8], seen: &mut Seen) {
    let Some((&how, contents)) = bytes.split_first() else { return };
    let mut unpacked = Vec::new();
    let text = match how % 4 {
        0 if contents.starts_with(&[0x1f, 0x8b]) => {
            seen.insert("packed");
            if MultiGzDecoder::new(contents).read_to_end(&mut unpacked).is_err() {
                return note(&Err(Graph::decode(contents).err().expect("it cannot be unpacked")), seen);
            }
            &unpacked
        }
        _ => contents,
    };
    let read = Graph::parse(text);
    note(&read, seen);
    match how % 4 {
        0 => same(&Graph::decode(contents), &read),
        1 => same(&Graph::decode(packed(text).as_slice()), &read),
        2 => {
            let (first, second) = text.split_at(usize::from(how / 4) * text.len() / 64);
            same(&Graph::decode([packed(first), packed(second)].concat().as_slice()), &read);
        }
        _ => {
            let whole = packed(text);
            let kept = whole.len() - 1 - usize::from(how / 4) % whole.len();
            assert!(Graph::decode(&whole[..kept]).is_err(), "{kept} of {} bytes", whole.len());
        }
    }
    match &read {
        Ok(graph) => {
            holds(graph, text, seen);
            reads_again(graph);
        }
        Err(ReadError::Line { number, .. }) => first_wrong(*number, text),
        Err(ReadError::NoEdges) => assert!(edges(text).is_empty()),
        Err(ReadError::Io(error)) => panic!("memory is read: {error}"),
    }
}

fn note(read: &Result<Graph, ReadError>, seen: &mut Seen) {
    seen.insert(match read {
        Ok(_) => "a graph",
        Err(ReadError::Line { what, .. }) if what.starts_with("longer") => "a line too long",
        Err(ReadError::Line { .. }) => "a wrong line",
        Err(ReadError::NoEdges) => "no edges",
        Err(ReadError::Io(_)) => "cannot be read",
    });
    if read.as_ref().is_ok_and(|graph| graph.notices.iter().any(|notice| notice.contains("header"))) {
        seen.insert("a header");
    }
}

fn same(one: &Result<Graph, ReadError>, other: &Result<Graph, ReadError>) {
    match (one, other) {
        (Ok(one), Ok(other)) => {
            assert_eq!(
                (one.fingerprint(), one.users(), &one.notices),
                (other.fingerprint(), other.users(), &other.notices)
            );
        }
        (Err(one), Err(other)) => assert_eq!(one.to_string(), other.to_string()),
        _ => panic!("one of two is read: {}, {}", one.is_ok(), other.is_ok()),
    }
}

/// Every line's two users, by the plainest reading there is.
fn edges(text: &[u8]) -> BTreeSet<(u64, u64)> {
    let text = String::from_utf8_lossy(text);
    let pair = |line: &str| {
        let mut words = line.trim_start_matches('\u{feff}').split_whitespace();
        Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
    };
    text.split('\n').filter_map(pair).collect()
}

/// The graph is that of the text.
fn holds(graph: &Graph, text: &[u8], seen: &mut Seen) {
    let expected = edges(text);
    let users: BTreeSet<u64> = expected.iter().flat_map(|(from, to)| [*from, *to]).collect();
    assert!(users.iter().eq(graph.users()), "{users:?}, {:?}", graph.users());
    let mut rest = expected.into_iter().filter(|(from, to)| from != to).peekable();
    let mut count = 0;
    for user in users {
        let list: Vec<u64> = std::iter::from_fn(|| rest.next_if(|(from, _)| *from == user)).map(|(_, to)| to).collect();
        let kept = list.len().min(LIST_MAX);
        assert_eq!(graph.followed_by(user), &list[..kept], "user {user}");
        assert_eq!(graph.following(user).complete, kept < LIST_MAX);
        if kept < list.len() {
            seen.insert("a list cut");
        }
        count += kept;
    }
    assert_eq!(graph.edges(), count);
    leads_to_everyone(graph);
}

fn leads_to_everyone(graph: &Graph) {
    let mut reached = BTreeSet::new();
    let mut frontier = graph.roots();
    while let Some(user) = frontier.pop() {
        if reached.insert(user) {
            frontier.extend(graph.followed_by(user));
        }
    }
    assert!(reached.iter().eq(graph.users()), "{reached:?}");
}

/// Users whom nobody follows and who follow nobody are written as followers of themselves: that is how they came in.
fn reads_again(graph: &Graph) {
    let mut text = String::new();
    for user in graph.users() {
        for followed in std::iter::once(user).chain(graph.followed_by(*user)) {
            writeln!(text, "{user} {followed}").expect("memory is written");
        }
    }
    let again = Graph::parse(text.as_bytes()).expect("it was written by the rules");
    assert_eq!((again.fingerprint(), again.users()), (graph.fingerprint(), graph.users()));
}

/// The lines before are good, and this one is not.
fn first_wrong(number: u64, text: &[u8]) {
    let number = usize::try_from(number).expect("it counts lines in memory");
    let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    let before = lines[..number - 1].concat();
    assert!(matches!(Graph::parse(before.as_slice()), Ok(_) | Err(ReadError::NoEdges)), "line {number}");
    let with = lines[..number].concat();
    let found = Graph::parse(with.as_slice());
    assert!(matches!(found, Err(ReadError::Line { number: found, .. }) if found == number as u64), "line {number}");
}
