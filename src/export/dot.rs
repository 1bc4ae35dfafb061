//! The graph in the DOT language of Graphviz: hub -> services -> pools -> leases -> clients -> the services they are
//! activated for.

use std::io::{self, Write};

use chrono::SecondsFormat;

use super::{ClientNode, HubNode, LeaseNode, PoolNode, ServiceNode, Sink, SubjectsNode};
use crate::watch::Level;

pub(super) struct Dot<'w> {
    out: &'w mut dyn Write,
}

impl<'w> Dot<'w> {
    pub(super) fn new(out: &'w mut dyn Write) -> Self {
        Self { out }
    }

    fn node(&mut self, name: &str, shape: &str, lines: &[String]) -> io::Result<()> {
        let label: Vec<String> = lines.iter().map(|line| escape(line)).collect();
        writeln!(self.out, "  \"{name}\" [shape={shape}, label=\"{}\"];", label.join("\\n"))
    }

    fn edge(&mut self, from: &str, to: &str) -> io::Result<()> {
        writeln!(self.out, "  \"{from}\" -> \"{to}\";")
    }
}

/// What may stand between quotes.
fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut escaped, c| {
        match c {
            '"' | '\\' => escaped.extend(['\\', c]),
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
        escaped
    })
}

fn word(value: impl std::fmt::Debug) -> String {
    format!("{value:?}").to_lowercase()
}

impl Sink for Dot<'_> {
    fn hub(&mut self, hub: &HubNode) -> io::Result<()> {
        writeln!(self.out, "digraph commissary {{\n  rankdir=LR;")?;
        let lines = [
            format!("hub: {}", hub.state),
            hub.at.to_rfc3339_opts(SecondsFormat::Millis, true),
            format!("{} clients, {} seats", hub.clients, hub.seats),
        ];
        self.node("hub", "doubleoctagon", &lines)
    }

    fn service(&mut self, service: &ServiceNode<'_>) -> io::Result<()> {
        let name = format!("s{}", service.number);
        let plugin = if service.registered { "" } else { ", no plugin" };
        let state = format!("{}{plugin}, {} active seats", service.state, service.active_seats);
        self.node(&name, "octagon", &[service.id.to_owned(), state])?;
        self.edge("hub", &name)
    }

    fn pool(&mut self, service: u32, pool: &PoolNode) -> io::Result<()> {
        let name = format!("p{service}_{}", pool.generation);
        let serving = if pool.serving { ", serving" } else { "" };
        let counts = format!("{} ready, {} held, {} over", pool.ready, pool.held, pool.over);
        self.node(&name, "folder", &[format!("pool {}{serving}", pool.generation), counts])?;
        self.edge(&format!("s{service}"), &name)
    }

    fn leases(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn lease(&mut self, service: u32, lease: &LeaseNode) -> io::Result<()> {
        let (generation, slot) = lease.bucket;
        let name = format!("l{service}_{generation}_{slot}");
        let until = lease.until.to_rfc3339_opts(SecondsFormat::Millis, true);
        let until = if lease.dead { format!("dead, grace until {until}") } else { format!("until {until}") };
        let owed = format!("{} of {} owed", lease.owed, lease.subjects);
        self.node(&name, "box", &[format!("bucket {slot}"), owed, until])?;
        self.edge(&format!("p{service}_{generation}"), &name)?;
        self.edge(&name, &format!("c{}", lease.client))
    }

    fn subjects(&mut self, service: u32, subjects: &SubjectsNode) -> io::Result<()> {
        let SubjectsNode { known, done, leased, waiting, unmarked } = subjects;
        let name = format!("u{service}");
        let counts = format!("{done} done, {leased} leased, {waiting} waiting, {unmarked} unmarked");
        self.node(&name, "cylinder", &[format!("{known} subjects"), counts])?;
        self.edge(&format!("s{service}"), &name)
    }

    fn clients(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn client(&mut self, client: &ClientNode<'_>) -> io::Result<()> {
        let name = format!("c{}", client.id);
        let state = if client.registered { "registered" } else { "deregistered" };
        self.node(&name, "ellipse", &[format!("{} ({})", client.name, client.id), state.to_owned()])?;
        for seat in &client.seats {
            // What nearly all are is not worth the ink.
            let level = if seat.level == Level::Healthy { String::new() } else { format!("{}, ", seat.level) };
            let label = escape(&format!("{}, {level}{} leases", word(seat.state), seat.leases));
            writeln!(self.out, "  \"{name}\" -> \"s{}\" [style=dashed, label=\"{label}\"];", seat.number)?;
        }
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        writeln!(self.out, "}}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_backslashes_and_line_ends_cannot_leave_a_label() {
        assert_eq!(escape("a\"];\\\n b"), "a\\\"];\\\\  b");
        let mut out = Vec::new();
        Dot::new(&mut out).node("n", "box", &["x\"".to_owned(), "y".to_owned()]).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "  \"n\" [shape=box, label=\"x\\\"\\ny\"];\n");
    }
}
