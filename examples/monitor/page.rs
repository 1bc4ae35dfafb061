//! The same figures as one HTML page that needs nothing from elsewhere.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::figures::{bytes, count, rate, real, time};
use crate::sample::{DiskSample, History, Sample, ServiceSample, Spread, last, told};
use crate::svg::{Line, bars, lines};

/// Services that get charts of their own.
const CHARTED: usize = 8;
/// Happenings on the page.
const HAPPENINGS: usize = 50;

const STYLE: &str = "
:root { color-scheme: light dark; --ground: #ffffff; --text: #1b1f24; --quiet: #5d6672; --rule: #d9dee4; --bad: #b42318;
  --c0: #0b6fb8; --c1: #c2410c; --c2: #15803d; --c3: #7c3aed; --c4: #a16207; --c5: #be185d; --c6: #0e7490; --c7: #475569; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171b; --text: #e6e9ed; --quiet: #98a2ad; --rule: #333a42;
  --bad: #ff8a80; --c0: #58b0f0; --c1: #fb923c; --c2: #4ade80; --c3: #b79cff; --c4: #facc15; --c5: #f472b6;
  --c6: #22d3ee; --c7: #a3b1c2; } }
body { background: var(--ground); color: var(--text); font: 15px/1.4 system-ui, sans-serif; margin: 2em auto;
  max-width: 90em; padding: 0 1em; }
h1 { font-size: 1.4em; } h2 { font-size: 1.1em; margin: 2em 0 .5em; }
p, figcaption, th, svg text { color: var(--quiet); }
.bad { color: var(--bad); font-weight: 600; }
.charts { display: grid; gap: 1.5em; grid-template-columns: repeat(auto-fit, minmax(min(28em, 100%), 1fr)); }
figure { margin: 0; } svg { width: 100%; }
svg text { fill: var(--quiet); font-size: 12px; } .end { text-anchor: end; } .mid { text-anchor: middle; }
svg line { stroke: var(--rule); } polyline { fill: none; stroke: var(--c); stroke-width: 2; } rect { fill: var(--c); }
ul { display: flex; flex-wrap: wrap; gap: .2em 1.2em; list-style: none; margin: 0; padding: 0; }
li[class]::before { background: var(--c); content: ''; display: inline-block; height: .7em; margin-right: .4em; width: .7em; }
.s0 { --c: var(--c0); } .s1 { --c: var(--c1); } .s2 { --c: var(--c2); } .s3 { --c: var(--c3); }
.s4 { --c: var(--c4); } .s5 { --c: var(--c5); } .s6 { --c: var(--c6); } .s7 { --c: var(--c7); }
.wide { overflow-x: auto; } table { border-collapse: collapse; }
th, td { border-bottom: 1px solid var(--rule); padding: .25em .8em .25em 0; text-align: left; white-space: nowrap; }
.n { font-variant-numeric: tabular-nums; text-align: right; }
";

/// Writes the page, whole or not at all: a browser never sees half of it.
pub(crate) fn write(path: &Path, history: &History, again: Option<Duration>) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not the name of a file"))?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}", std::process::id()));
    let draft = path.with_file_name(hidden);
    let written = fs::write(&draft, render(history, again)).and_then(|()| fs::rename(&draft, path));
    written.inspect_err(|_| drop(fs::remove_file(&draft)))
}

/// The page. It asks the browser to load it `again` after that time, if it is to be written again.
pub(crate) fn render(history: &History, again: Option<Duration>) -> String {
    let mut page = String::from("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    page.push_str("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
    if let Some(again) = again {
        let _ = writeln!(page, "<meta http-equiv=\"refresh\" content=\"{}\">", again.as_secs().max(1));
    }
    let _ = write!(page, "<title>commissary</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>commissary</h1>\n");
    if let Some(now) = history.latest() {
        head(&mut page, now);
        services(&mut page, history, now);
        work_charts(&mut page, history, now);
        time_charts(&mut page, now);
        clients(&mut page, now);
        leases(&mut page, now);
        disk(&mut page, history, now);
        happenings(&mut page, history);
    }
    page.push_str("</body>\n</html>\n");
    page
}

fn head(page: &mut String, now: &Sample) {
    let (clients, queued) = (count(now.clients), bytes(real(now.queued_bytes)));
    let seen = time(now.at);
    let _ = writeln!(page, "<p>Watched for {seen}: {clients} clients; {queued} wait for the writer.</p>");
    if !now.turned_away.is_empty() {
        let _ = writeln!(page, "<p>Turned away: {}.</p>", escape(&told(&now.turned_away)));
    }
    if let Some(trouble) = &now.trouble {
        let _ = writeln!(page, "<p class=\"bad\">The hub takes no new work: {}</p>", escape(trouble));
    }
}

fn services(page: &mut String, history: &History, now: &Sample) {
    let headers = [
        "service",
        "state",
        "#seats",
        "#known",
        "#done",
        "#unmarked",
        "#a second",
        "#pools",
        "#ready",
        "#leased",
        "#waiting",
        "#leases",
        "#dead",
        "#expired",
        "#faults",
        "#oldest wait",
        "#longest wait",
        "#overdue",
        "#drained in",
    ];
    let rows = now.services.iter().map(|of| service_row(of, last(&history.done_rate(&of.id))));
    section(page, "Services", &table(&headers, rows));
}

fn service_row(of: &ServiceSample, done: f64) -> Vec<String> {
    vec![
        of.id.clone(),
        of.state.clone(),
        count(of.seats.into()),
        count(of.known),
        count(of.done),
        count(of.unmarked),
        rate(done),
        count(of.pools),
        count(of.ready),
        count(of.leased),
        count(of.waiting()),
        count(of.leases),
        count(of.dead),
        count(of.expired),
        count(of.faults),
        time(of.oldest_wait),
        time(of.longest_wait),
        count(of.overdue),
        of.drain_time.map_or_else(|| "-".to_owned(), time),
    ]
}

fn work_charts(page: &mut String, history: &History, now: &Sample) {
    let shown = || now.services.iter().take(CHARTED).map(|service| service.id.as_str());
    let done: Vec<Line<'_>> = shown().map(|id| Line { name: id, points: history.done_rate(id) }).collect();
    let mut charts = lines("done a second", rate, &done);
    let oldest = |id| history.of_service(id, |service| service.oldest_wait.as_secs_f64());
    let waits: Vec<Line<'_>> = shown().map(|id| Line { name: id, points: oldest(id) }).collect();
    charts += &lines("oldest wait", |value| format!("{} s", rate(value)), &waits);
    for id in shown() {
        let line = |name, value: fn(&ServiceSample) -> u64| Line {
            name,
            points: history.of_service(id, |service| real(value(service))),
        };
        let of = [
            line("ready", |service| service.ready),
            line("leased", |service| service.leased),
            line("waiting", ServiceSample::waiting),
        ];
        charts += &lines(&format!("{id}: subjects without a result"), rate, &of);
    }
    section(page, "Work", &format!("<div class=\"charts\">\n{charts}</div>"));
}

fn time_charts(page: &mut String, now: &Sample) {
    let mut charts = String::new();
    for of in now.services.iter().take(CHARTED) {
        charts += &histogram(&format!("{}: from marked to reported", of.id), &of.wait_ms, Duration::from_millis(1));
        charts += &histogram(&format!("{}: claims (one in 64 is timed)", of.id), &of.claim_ns, Duration::from_nanos(1));
    }
    section(page, "Times", &format!("<div class=\"charts\">\n{charts}</div>"));
}

/// How many values from one power of two up to the next, in `unit`s.
fn histogram(title: &str, of: &Spread, unit: Duration) -> String {
    let told = |value: u64| brief(unit.saturating_mul(u32::try_from(value).unwrap_or(u32::MAX)));
    let of_power = |power: u32| told(1_u64.checked_shl(power).unwrap_or(u64::MAX));
    let shown: Vec<(String, u64)> = of.bars.iter().map(|(power, number)| (of_power(*power), *number)).collect();
    let note = format!(
        "{} values: half up to {}, 99 of 100 up to {}, all up to {}",
        count(of.count),
        told(of.p50),
        told(of.p99),
        told(of.max)
    );
    bars(title, &note, &shown)
}

/// As `time`, with nanoseconds.
fn brief(of: Duration) -> String {
    if of < Duration::from_micros(10) { format!("{} ns", of.as_nanos()) } else { time(of) }
}

fn clients(page: &mut String, now: &Sample) {
    let headers = [
        "client",
        "#id",
        "registered",
        "first registered (UTC)",
        "service",
        "seat",
        "level",
        "last access (UTC)",
        "#buckets",
        "#dead",
        "#faults",
        "which",
    ];
    let day = |at: DateTime<Utc>| at.format("%Y-%m-%d %H:%M:%S").to_string();
    let rows = now.faulty.iter().map(|of| {
        vec![
            of.name.clone(),
            of.id.to_string(),
            if of.registered { "yes" } else { "no" }.to_owned(),
            day(of.first_registered),
            of.service.clone(),
            of.seat.clone(),
            of.level.to_string(),
            of.last_access.map_or_else(|| "-".to_owned(), day),
            count(of.assigned),
            count(of.dead),
            count(of.total()),
            of.told(),
        ]
    });
    section(page, "Faulty clients", &table(&headers, rows));
}

fn leases(page: &mut String, now: &Sample) {
    let rows = now.leases.iter().map(|of| {
        let late = if of.late { "longer than a lease lasts without renewal" } else { "" };
        let bucket = format!("{}/{}", of.bucket.0, of.bucket.1);
        vec![of.service.clone(), bucket, of.client.clone(), time(of.held), late.to_owned()]
    });
    section(page, "Oldest leases", &table(&["service", "bucket", "client", "#held for", ""], rows));
}

fn disk(page: &mut String, history: &History, now: &Sample) {
    let headers = ["who asks the store", "#reads", "#bytes read", "#batches", "#pairs written", "#bytes written"];
    let rows = now.disk.roles.iter().map(|role| {
        let (read, written) = (bytes(real(role.bytes_read)), bytes(real(role.bytes_written)));
        vec![role.name.to_owned(), count(role.reads), read, count(role.batches), count(role.pairs_written), written]
    });
    let mut body = table(&headers, rows);
    let of = &now.disk;
    let _ = writeln!(
        body,
        "<p>Journal: {} in {} records, {} groups, {} syncs. Store: {} on disk.</p>",
        bytes(real(of.journal_bytes)),
        count(of.journal_records),
        count(of.journal_groups),
        count(of.journal_syncs),
        bytes(real(of.store_bytes)),
    );
    let line = |name, asked: fn(&DiskSample) -> u64| Line { name, points: history.cost(asked) };
    let cost = [
        line("store reads", DiskSample::reads),
        line("store pairs written", DiskSample::pairs_written),
        line("journal records", |disk| disk.journal_records),
        line("journal syncs", |disk| disk.journal_syncs),
    ];
    let journal = Line { name: "journal", points: history.growth(|sample| Some(sample.disk.journal_bytes)) };
    let charts = [
        lines("operations for 1,000 finished subjects", rate, &cost),
        lines("bytes journaled a second", bytes, &[journal]),
    ];
    let _ = write!(body, "<div class=\"charts\">\n{}</div>", charts.concat());
    section(page, "Storage", &body);
}

fn happenings(page: &mut String, history: &History) {
    let rows = history.happenings().take(HAPPENINGS).map(|of| vec![of.time(), of.what.clone()]);
    section(page, "What happened, the newest first (UTC)", &table(&["at", ""], rows));
}

fn section(page: &mut String, title: &str, body: &str) {
    let _ = writeln!(page, "<h2>{}</h2>\n{body}", escape(title));
}

/// A table. Columns whose header begins with `#` are of figures.
fn table(headers: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut body = String::new();
    for row in rows {
        body.push_str("<tr>");
        for (header, cell) in headers.iter().zip(&row) {
            let _ = write!(body, "<td{}>{}</td>", class(header), escape(cell));
        }
        body.push_str("</tr>\n");
    }
    if body.is_empty() {
        return "<p>None.</p>".to_owned();
    }
    let mut head = String::new();
    for header in headers {
        let _ = write!(head, "<th{}>{}</th>", class(header), escape(header.trim_start_matches('#')));
    }
    format!("<div class=\"wide\"><table>\n<tr>{head}</tr>\n{body}</table></div>")
}

fn class(header: &str) -> &'static str {
    if header.starts_with('#') { " class=\"n\"" } else { "" }
}

/// Text as it must stand in HTML, in attributes too.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::tests::history;

    /// Every tag is closed by its own, in order.
    fn check_tags(page: &str) {
        let mut open: Vec<&str> = Vec::new();
        for piece in page.split('<').skip(1) {
            let (tag, _text) = piece.split_once('>').unwrap_or_else(|| panic!("not closed: <{piece}"));
            let name = tag.split([' ', '\n']).next().unwrap().trim_end_matches('/');
            if let Some(name) = name.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name), "closed by {piece}");
            } else if !(tag.ends_with('/') || ["!DOCTYPE", "meta"].contains(&name)) {
                open.push(name);
            }
            assert!(tag.matches('"').count().is_multiple_of(2), "quotes in <{tag}>");
        }
        assert!(open.is_empty(), "left open: {open:?}");
    }

    /// R18: the page is well formed, needs nothing from elsewhere, and has the figures.
    #[test]
    fn the_page_has_the_figures_and_is_whole() {
        let page = render(&history(), Some(Duration::from_secs(2)));
        check_tags(&page);
        for figure in [
            "2,000",
            "mallory",
            "14 rejected, 2 forged token",
            "2.5 s",
            "7/4",
            "3.4 s",
            "4.0 KiB",
            "4,321",
            "1,005 throttled",
        ] {
            assert!(page.contains(figure), "no {figure} in {page}");
        }
        for foreign in ["http:", "https:", "src=", "href=", "url(", "@import", "<script"] {
            assert!(!page.contains(foreign), "{foreign} in the page");
        }
        assert!(page.contains("refresh") && !render(&history(), None).contains("refresh"));
    }

    #[test]
    fn names_cannot_break_out() {
        let page = render(&history(), None);
        assert!(page.contains("&lt;i&gt;&amp;&quot;odd&quot;") && page.contains("&lt;b&gt;told&lt;/b&gt; 2"));
        assert!(!page.contains("<i>") && !page.contains("<b>told"));
    }

    #[test]
    fn a_page_of_nothing_is_whole() {
        check_tags(&render(&History::default(), None));
        let mut history = History::default();
        history.push(Sample::default());
        check_tags(&render(&history, None));
    }

    #[test]
    fn the_page_is_replaced_and_nothing_else_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("page.html");
        for again in [Some(Duration::from_secs(2)), None] {
            write(&path, &history(), again).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), render(&history(), again));
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        assert!(write(&directory.path().join("none/page.html"), &history(), None).is_err());
    }
}
