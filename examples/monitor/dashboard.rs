//! The dashboard: what a terminal shows of the figures.

use commissary::Level;
use ratatui::backend::TestBackend;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::Marker;
use ratatui::text::Line;
use ratatui::widgets::{Axis, Block, Cell, Chart, Dataset, GraphType, Paragraph, Row, Sparkline, Table};
use ratatui::{Frame, Terminal};

use crate::figures::{bytes, count, rate, real, time};
use crate::sample::{DiskSample, History, Point, Sample, ServiceSample, last, told};

const QUIET: Style = Style::new().fg(Color::DarkGray);
const BAD: Style = Style::new().fg(Color::Red);
const COLOURS: [Color; 6] =
    [Color::Cyan, Color::Yellow, Color::Green, Color::Magenta, Color::LightBlue, Color::LightRed];

/// Draws the latest of a history.
pub(crate) fn draw(frame: &mut Frame<'_>, history: &History) {
    let Some(now) = history.latest() else { return };
    let rows = u16::try_from(now.services.len()).unwrap_or(u16::MAX).clamp(1, 10);
    let areas = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(rows + 3),
        Constraint::Fill(3),
        Constraint::Fill(3),
        Constraint::Length(9),
    ]);
    let [top, services, charts, clients, bottom] = areas.areas(frame.area());
    frame.render_widget(head(history, now), top);
    frame.render_widget(service_table(history, now), services);
    let [left, right] = halves(charts);
    draw_subjects(frame, left, history);
    draw_rates(frame, right, history, now);
    let [left, right] = parts(clients);
    frame.render_widget(faulty_table(now), left);
    frame.render_widget(lease_table(now), right);
    let [left, right] = parts(bottom);
    frame.render_widget(happenings(history), left);
    frame.render_widget(storage(history, now), right);
}

/// The dashboard as plain text, for those without a terminal.
pub(crate) fn text(history: &History, width: u16, height: u16) -> String {
    let Ok(mut terminal) = Terminal::new(TestBackend::new(width, height));
    let Ok(drawn) = terminal.draw(|frame| draw(frame, history));
    let mut text = String::new();
    for row in drawn.buffer.content().chunks(width.max(1).into()) {
        let row: String = row.iter().map(ratatui::buffer::Cell::symbol).collect();
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

/// The most important figures on one line.
pub(crate) fn line(history: &History) -> String {
    let Some(now) = history.latest() else { return String::new() };
    let sum = |value: fn(&ServiceSample) -> u64| now.services.iter().map(value).sum::<u64>();
    let done: f64 = now.services.iter().map(|service| last(&history.done_rate(&service.id))).sum();
    let oldest = now.services.iter().map(|service| service.oldest_wait).max().unwrap_or_default();
    format!(
        "{}: {} done, {}/s, {} ready, {} leased, {} waiting, oldest wait {}, {} faults",
        time(now.at),
        count(sum(|service| service.done)),
        rate(done),
        count(sum(|service| service.ready)),
        count(sum(|service| service.leased)),
        count(sum(ServiceSample::waiting)),
        time(oldest),
        count(sum(|service| service.faults)),
    )
}

/// The left gets three fifths: there are sentences in it.
fn parts(area: Rect) -> [Rect; 2] {
    Layout::horizontal([Constraint::Fill(3), Constraint::Fill(2)]).areas(area)
}

fn halves(area: Rect) -> [Rect; 2] {
    Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).areas(area)
}

fn block(title: &str) -> Block<'_> {
    Block::bordered().border_style(QUIET).title(title)
}

fn head<'a>(history: &History, now: &Sample) -> Paragraph<'a> {
    let text = match &now.trouble {
        Some(trouble) => Line::styled(format!(" the hub takes no new work: {trouble}"), BAD),
        None => Line::raw(format!(" {} clients, {}   [q] quits", count(now.clients), line(history))),
    };
    Paragraph::new(text.style(Modifier::BOLD))
}

fn header<const N: usize>(names: [&'static str; N]) -> Row<'static> {
    Row::new(names).style(QUIET)
}

fn service_table<'a>(history: &History, now: &Sample) -> Table<'a> {
    let rows = now.services.iter().enumerate().map(|(place, of)| {
        let dead = Cell::new(count(of.dead)).style(if of.dead > 0 { BAD } else { Style::new() });
        let state = Cell::new(of.state.clone()).style(if of.state == "active" { Style::new() } else { BAD });
        Row::new([
            Cell::new(of.id.clone()).style(colour(place)),
            state,
            Cell::new(of.seats.to_string()),
            Cell::new(count(of.known)),
            Cell::new(count(of.done)),
            Cell::new(rate(last(&history.done_rate(&of.id)))),
            Cell::new(of.pools.to_string()),
            Cell::new(count(of.ready)),
            Cell::new(count(of.leased)),
            Cell::new(count(of.waiting())),
            Cell::new(count(of.leases)),
            dead,
            Cell::new(time(of.oldest_wait)),
            Cell::new(count(of.overdue)),
            Cell::new(of.drain_time.map_or_else(|| "-".to_owned(), time)),
        ])
    });
    let widths = [12, 8, 5, 9, 9, 6, 5, 7, 7, 8, 6, 4, 11, 7, 10].map(Constraint::Length);
    let names = [
        "service",
        "state",
        "seats",
        "known",
        "done",
        "/s",
        "pools",
        "ready",
        "leased",
        "waiting",
        "leases",
        "dead",
        "oldest wait",
        "overdue",
        "drained in",
    ];
    Table::new(rows, widths).header(header(names)).block(block("services"))
}

fn colour(place: usize) -> Style {
    Style::new().fg(COLOURS[place % COLOURS.len()])
}

/// Subjects of all services that are ready, leased and waiting, over time.
fn draw_subjects(frame: &mut Frame<'_>, area: Rect, history: &History) {
    let sum = |value: fn(&ServiceSample) -> u64| {
        history.series(move |sample| Some(real(sample.services.iter().map(value).sum())))
    };
    let lines = [
        ("ready", sum(|service| service.ready)),
        ("leased", sum(|service| service.leased)),
        ("waiting", sum(ServiceSample::waiting)),
    ];
    let ends = |points: &[Point]| points.first().zip(points.last()).map(|(first, last)| [first.0, last.0]);
    let bounds = ends(&lines[0].1).unwrap_or([0.0, 1.0]);
    let top = lines.iter().flat_map(|(_, points)| points).map(|point| point.1).fold(1.0, f64::max);
    let datasets = lines.iter().enumerate().map(|(place, (name, points))| {
        let of = Dataset::default().name(format!("{name} {}", rate(last(points)))).data(points);
        of.marker(Marker::Braille).graph_type(GraphType::Line).style(colour(place))
    });
    let x = Axis::default().bounds(bounds).style(QUIET).labels(bounds.map(|at| format!("{at:.0} s")));
    let y = Axis::default().bounds([0.0, top]).style(QUIET).labels(["0".to_owned(), rate(top)]);
    let chart = Chart::new(datasets.collect()).block(block("subjects without a result")).x_axis(x).y_axis(y);
    // A legend however small the chart.
    let always = (Constraint::Min(0), Constraint::Min(0));
    frame.render_widget(chart.hidden_legend_constraints(always), area);
}

/// For each service, what was done in a second and the oldest wait, over time.
fn draw_rates(frame: &mut Frame<'_>, area: Rect, history: &History, now: &Sample) {
    let frame_of = block("done a second | oldest wait");
    let inner = frame_of.inner(area);
    frame.render_widget(frame_of, area);
    let shown = now.services.len().min(usize::from(inner.height / 2)).max(1);
    let areas = Layout::vertical(vec![Constraint::Fill(1); shown]).split(inner);
    for (place, (of, area)) in now.services.iter().zip(areas.iter()).enumerate() {
        let [left, right] = halves(*area);
        let done = history.done_rate(&of.id);
        let title = format!("{} {}/s", of.id, rate(last(&done)));
        sparkline(frame, left, title, &done, colour(place));
        let waits = history.of_service(&of.id, |service| service.oldest_wait.as_secs_f64() * 1_000.0);
        sparkline(frame, right, time(of.oldest_wait), &waits, colour(place));
    }
}

/// The newest values that there is room for.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a bar's height: not negative, rounded")]
fn sparkline(frame: &mut Frame<'_>, area: Rect, title: String, points: &[Point], style: Style) {
    let newest = points.len().saturating_sub(area.width.saturating_sub(1).into());
    let values: Vec<u64> = points.iter().skip(newest).map(|point| point.1.max(0.0) as u64).collect();
    let title = Block::new().title(Line::styled(title, style));
    frame.render_widget(Sparkline::default().block(title).data(values).style(style), area);
}

fn faulty_table<'a>(now: &Sample) -> Table<'a> {
    let rows = now.faulty.iter().map(|of| {
        let name = if of.registered { of.name.clone() } else { format!("({})", of.name) };
        let dead = Cell::new(count(of.dead)).style(if of.dead > 0 { BAD } else { Style::new() });
        let (service, assigned) = (Cell::new(of.service.clone()), Cell::new(count(of.assigned)));
        let level = Cell::new(of.level.to_string()).style(if of.level == Level::Healthy { Style::new() } else { BAD });
        Row::new([Cell::new(name), service, level, assigned, dead, Cell::new(of.told())])
    });
    let widths = [
        Constraint::Length(15),
        Constraint::Length(12),
        Constraint::Length(11),
        Constraint::Length(7),
        Constraint::Length(4),
        Constraint::Fill(1),
    ];
    let names = header(["client", "service", "level", "buckets", "dead", "faults"]);
    Table::new(rows, widths).header(names).block(block("faulty clients"))
}

fn lease_table<'a>(now: &Sample) -> Table<'a> {
    let rows = now.leases.iter().map(|of| {
        let bucket = format!("{}/{}", of.bucket.0, of.bucket.1);
        let row = Row::new([of.service.clone(), bucket, of.client.clone(), time(of.held)]);
        if of.late { row.style(BAD) } else { row }
    });
    let widths = [12, 12, 15, 12].map(Constraint::Length);
    let names = header(["service", "bucket", "client", "held for"]);
    Table::new(rows, widths).header(names).block(block("oldest leases"))
}

fn happenings<'a>(history: &History) -> Paragraph<'a> {
    let lines: Vec<Line<'_>> =
        history.happenings().take(20).map(|of| Line::raw(format!("{} {}", of.time(), of.what))).collect();
    Paragraph::new(lines).block(block("what happened (UTC)"))
}

fn storage<'a>(history: &History, now: &Sample) -> Paragraph<'a> {
    let cost = |asked: fn(&DiskSample) -> u64| rate(last(&history.cost(asked)));
    let of = &now.disk;
    let lines = vec![
        Line::styled("for 1,000 subjects, of late", QUIET),
        Line::raw(format!(
            "store: {} reads, {} pairs written",
            cost(DiskSample::reads),
            cost(DiskSample::pairs_written)
        )),
        Line::raw(format!(
            "journal: {} records, {} syncs",
            cost(|disk| disk.journal_records),
            cost(|disk| disk.journal_syncs)
        )),
        Line::styled("since the hub was opened", QUIET),
        Line::raw(format!(
            "journal: {} in {} groups; store: {} on disk",
            bytes(real(of.journal_bytes)),
            count(of.journal_groups),
            bytes(real(of.store_bytes))
        )),
        Line::raw(format!("{} wait for the writer", bytes(real(now.queued_bytes)))),
        Line::styled(turned_away(now), BAD),
    ];
    Paragraph::new(lines).block(block("storage"))
}

fn turned_away(now: &Sample) -> String {
    if now.turned_away.is_empty() { String::new() } else { format!("turned away: {}", told(&now.turned_away)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::tests::history;

    /// R18, R20: what a terminal shows has the figures of the sample.
    #[test]
    fn the_dashboard_shows_the_figures() {
        let shown = text(&history(), 140, 42);
        let row = |name: &str| shown.lines().find(|line| line.contains(name)).unwrap_or_else(|| panic!("{shown}"));
        let photos = row("photos ").replace(|drawn: char| !drawn.is_ascii(), " ");
        let service: Vec<&str> = photos.split_whitespace().collect();
        assert_eq!(
            service[..14],
            ["photos", "active", "5", "2,000", "600", "300", "0", "640", "32", "728", "2", "1", "2.5", "s"]
        );
        assert!(row("mallory").contains("14 rejected, 2 forged token"), "{shown}");
        assert!(row("worker_3").contains("3.4 s"), "{shown}");
        assert!(shown.contains("store: 2000 reads") && shown.contains("journal: 300 records"), "{shown}");
        assert!(shown.contains("turned away: 1,005 throttled registrations"), "{shown}");
        assert!(shown.contains("<b>told</b> 2") && shown.contains("ready 640"), "{shown}");
        assert_eq!(
            line(&history()),
            "2.0 s: 600 done, 300/s, 640 ready, 32 leased, 728 waiting, oldest wait 2.5 s, 0 faults"
        );
    }

    #[test]
    fn a_small_terminal_and_no_history_are_drawn_too() {
        for (width, height) in [(1, 1), (20, 5), (80, 24), (300, 100)] {
            assert_eq!(text(&history(), width, height).lines().count(), usize::from(height));
            assert_eq!(text(&History::default(), width, height).trim(), "");
        }
    }
}
