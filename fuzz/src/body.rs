//! JSON bodies made from bytes: the fields that a call knows, with values that fit them or not. So a fuzzer that knows nothing of JSON
//! gets past the parser.

/// Bytes one after the other; zeros when they have ended.
pub(super) struct Bytes<'a>(pub(super) &'a [u8]);

impl<'a> Bytes<'a> {
    pub(super) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// A number below the bound.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        usize::from(self.byte().unwrap_or(0)) % bound
    }

    fn one_of(&mut self, of: &[&'static str]) -> &'static str {
        of[self.below(of.len())]
    }

    /// Up to the end of the line, which is left out.
    pub(super) fn line(&mut self) -> &'a [u8] {
        let at = self.0.iter().position(|byte| *byte == b'\n').unwrap_or(self.0.len());
        let (line, rest) = self.0.split_at(at);
        self.0 = rest.get(1..).unwrap_or_default();
        line
    }
}

/// What a field holds, if it fits.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// Put in by whoever makes the call.
    Token,
    Key,
    Keys,
    Reports,
    Number,
    Moment,
    Lane,
    /// Of a lane's state, which is any; most leases have none.
    State,
}

/// What a call's body is.
#[derive(Clone, Copy)]
pub(super) enum Form {
    One(Kind),
    Fields(&'static [(&'static str, Kind)]),
}

const ODD: &[&str] = &[
    "null",
    "true",
    "0",
    "-1",
    "1.5",
    "1e400",
    "18446744073709551615",
    "18446744073709551616",
    "\"\"",
    "\"x\"",
    "\"\\ud800\"",
    "\"\\u0000\"",
    "[]",
    "[[]]",
    "[1]",
    "{}",
    "{\"a\":{}}",
    "\"1\"",
    "",
    "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]",
];
const NUMBERS: &[&str] =
    &["1", "2", "0", "4", "100", "60000", "1000", "1001", "4294967295", "4294967296", "18446744073709551615"];
const MOMENTS: &[&str] = &[
    "\"1970-01-01T00:00:00Z\"",
    "\"2024-01-31T12:00:00Z\"",
    "\"2300-12-31T23:59:60Z\"",
    "\"-262143-01-01T00:00:00Z\"",
    "\"+262142-12-31T23:59:59.999999999Z\"",
    "\"1970-01-01T00:00:00.001+23:59\"",
];
const REPORTS: &[&str] = &[
    "\"open\"",
    "\"closed\"",
    "\"unknown\"",
    "{\"users\":[],\"complete\":true}",
    "{\"users\":[20,21],\"complete\":false}",
    "{\"users\":[3,3],\"complete\":true}",
    "{\"complete\":true,\"users\":[2,30]}",
    "[[40],true]",
];

/// A body of some form, as JSON, or nearly so.
pub(super) fn body(bytes: &mut Bytes<'_>, form: Form) -> String {
    match form {
        Form::One(kind) => value(bytes, kind),
        Form::Fields(fields) => object(bytes, fields),
    }
}

/// Mostly every field, once, with what fits.
fn object(bytes: &mut Bytes<'_>, fields: &[(&str, Kind)]) -> String {
    let mut parts = Vec::new();
    for (name, kind) in fields {
        // A state on a lease that is of no lane is refused, whatever else there is.
        let usual = if matches!(kind, Kind::State) { 2 } else { 12 };
        match bytes.below(16) {
            how if how < usual => parts.push(format!("\"{name}\":{}", value(bytes, *kind))),
            13 => parts.push(format!("\"{name}\":{}", bytes.one_of(ODD))),
            14 => parts.push(format!("\"{name}x\":{}", value(bytes, *kind))),
            15 => parts.extend([0, 1].map(|_| format!("\"{name}\":{}", value(bytes, *kind)))),
            _ => {}
        }
    }
    format!("{{{}}}", parts.join(","))
}

fn value(bytes: &mut Bytes<'_>, kind: Kind) -> String {
    match kind {
        Kind::Token => {
            bytes.one_of(&["\"TOKEN\"", "\"TOKEN\"", "\"TOKEN\"", "\"OLDER\"", "\"FORGED\"", "\"ab\""]).to_owned()
        }
        Kind::Key => match bytes.below(16) {
            15 => bytes.one_of(ODD).to_owned(),
            key => key.to_string(),
        },
        Kind::Keys => list(bytes, |bytes| value(bytes, Kind::Key)),
        Kind::Reports => list(bytes, |bytes| {
            let (key, report) = (value(bytes, Kind::Key), bytes.below(16));
            match report {
                14 => format!("[{key}]"),
                15 => format!("[{key},{}]", bytes.one_of(ODD)),
                other => format!("[{key},{}]", REPORTS[other % REPORTS.len()]),
            }
        }),
        Kind::Number => bytes.one_of(NUMBERS).to_owned(),
        Kind::Moment => bytes.one_of(MOMENTS).to_owned(),
        Kind::Lane => bytes.one_of(&["\"lane\"", "[108,97]", "\"\"", "[256]", "[]"]).to_owned(),
        Kind::State => bytes.one_of(ODD).to_owned(),
    }
}

fn list(bytes: &mut Bytes<'_>, mut element: impl FnMut(&mut Bytes<'_>) -> String) -> String {
    let elements: Vec<_> = (0..bytes.below(5)).map(|_| element(bytes)).collect();
    format!("[{}]", elements.join(","))
}
