//! The graph as JSON: one object with `hub`, `services` and `clients`.

use std::io::{self, Write};

use serde::Serialize;

use super::{ClientNode, HubNode, LeaseNode, PoolNode, ServiceNode, Sink, SubjectsNode};

pub(super) struct Json<'w> {
    out: &'w mut dyn Write,
    services: u64,
    /// Elements of the innermost list so far.
    elements: u64,
}

impl<'w> Json<'w> {
    pub(super) fn new(out: &'w mut dyn Write) -> Self {
        Self { out, services: 0, elements: 0 }
    }

    fn text(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(text.as_bytes())
    }

    fn value(&mut self, value: &impl Serialize) -> io::Result<()> {
        Ok(serde_json::to_writer(&mut self.out, value)?)
    }

    fn element(&mut self, value: &impl Serialize) -> io::Result<()> {
        self.text(if self.elements == 0 { "\n" } else { ",\n" })?;
        self.elements += 1;
        self.value(value)
    }
}

impl Sink for Json<'_> {
    fn hub(&mut self, hub: &HubNode) -> io::Result<()> {
        self.text("{\"hub\":")?;
        self.value(hub)?;
        self.text(",\n\"services\":[")
    }

    fn service(&mut self, service: &ServiceNode<'_>) -> io::Result<()> {
        self.text(if self.services == 0 { "\n{\"service\":" } else { ",\n{\"service\":" })?;
        self.services += 1;
        self.elements = 0;
        self.value(service)?;
        self.text(",\"pools\":[")
    }

    fn pool(&mut self, _service: u32, pool: &PoolNode) -> io::Result<()> {
        self.element(pool)
    }

    fn leases(&mut self) -> io::Result<()> {
        self.elements = 0;
        self.text("],\"leases\":[")
    }

    fn lease(&mut self, _service: u32, lease: &LeaseNode) -> io::Result<()> {
        self.element(lease)
    }

    fn subjects(&mut self, _service: u32, subjects: &SubjectsNode) -> io::Result<()> {
        self.text("],\"subjects\":")?;
        self.value(subjects)?;
        self.text("}")
    }

    fn clients(&mut self) -> io::Result<()> {
        self.elements = 0;
        self.text("],\n\"clients\":[")
    }

    fn client(&mut self, client: &ClientNode<'_>) -> io::Result<()> {
        self.element(client)
    }

    fn end(&mut self) -> io::Result<()> {
        self.text("]}\n")
    }
}
