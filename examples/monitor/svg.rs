//! Charts as inline SVG. Colours are the page's: series `n` has the class `s` and `n`.

use std::fmt::Write;

use crate::figures::{count, real};
use crate::page::escape;
use crate::sample::{Point, last};

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 200.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 10.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 24.0;
/// Colours that there are.
const COLOURS: usize = 8;

/// One line of a chart.
pub(crate) struct Line<'a> {
    pub(crate) name: &'a str,
    pub(crate) points: Vec<Point>,
}

/// Values over time, each line with its last value in the legend.
pub(crate) fn lines(title: &str, unit: impl Fn(f64) -> String, lines: &[Line<'_>]) -> String {
    let all = || lines.iter().flat_map(|line| &line.points);
    let top = ceiling(all().map(|point| point.1).fold(0.0, f64::max));
    let from = all().map(|point| point.0).fold(f64::INFINITY, f64::min);
    let to = all().map(|point| point.0).fold(0.0, f64::max);
    let mut body = grid(top, &unit);
    if from < to {
        let across = (WIDTH - LEFT - RIGHT) / (to - from);
        for (place, line) in lines.iter().enumerate() {
            let mut points = String::new();
            for (at, value) in &line.points {
                let _ = write!(points, "{:.1},{:.1} ", LEFT + (at - from) * across, height(*value, top));
            }
            let (name, points) = (escape(line.name), points.trim_end());
            let class = place % COLOURS;
            let _ = write!(body, "<polyline class=\"s{class}\" points=\"{points}\"><title>{name}</title></polyline>");
        }
        let _ = write!(body, "<text x=\"{LEFT}\" y=\"{}\">{from:.0} s</text>", HEIGHT - 6.0);
        let (x, y) = (WIDTH - RIGHT, HEIGHT - 6.0);
        let _ = write!(body, "<text class=\"end\" x=\"{x}\" y=\"{y}\">{to:.0} s</text>");
    }
    let mut legend = String::new();
    for (place, line) in lines.iter().enumerate() {
        let (name, now) = (escape(line.name), escape(&unit(last(&line.points))));
        let _ = write!(legend, "<li class=\"s{}\">{name} <b>{now}</b></li>", place % COLOURS);
    }
    figure(title, &body, &legend)
}

/// How many values fell where.
pub(crate) fn bars(title: &str, note: &str, bars: &[(String, u64)]) -> String {
    let top = ceiling(bars.iter().map(|bar| real(bar.1)).fold(0.0, f64::max));
    let mut body = grid(top, &|value: f64| format!("{value:.0}"));
    let width = (WIDTH - LEFT - RIGHT) / real(bars.len().max(1) as u64);
    let mut left = LEFT;
    for (label, number) in bars {
        let y = height(real(*number), top);
        let (label, number) = (escape(label), count(*number));
        let (x, w, h) = (left + 1.0, (width - 2.0).max(1.0), HEIGHT - BOTTOM - y);
        let _ = write!(
            body,
            "<rect class=\"s0\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{w:.1}\" height=\"{h:.1}\">\
             <title>{label}: {number}</title></rect>"
        );
        // Labels that would run into each other are left out; the tooltip has them.
        if bars.len() <= 12 {
            let (x, y) = (left + width / 2.0, HEIGHT - 6.0);
            let _ = write!(body, "<text class=\"mid\" x=\"{x:.1}\" y=\"{y}\">{label}</text>");
        }
        left += width;
    }
    figure(title, &body, &format!("<li>{}</li>", escape(note)))
}

fn figure(title: &str, body: &str, legend: &str) -> String {
    let title = escape(title);
    format!(
        "<figure><figcaption>{title}</figcaption>\
         <svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">{body}</svg>\
         <ul>{legend}</ul></figure>\n"
    )
}

/// Three lines across, with what they stand for.
fn grid(top: f64, unit: &impl Fn(f64) -> String) -> String {
    let mut grid = String::new();
    for value in [0.0, top / 2.0, top] {
        let (y, right) = (height(value, top), WIDTH - RIGHT);
        let _ = write!(grid, "<line x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>");
        let (x, y, label) = (LEFT - 6.0, y + 4.0, escape(&unit(value)));
        let _ = write!(grid, "<text class=\"end\" x=\"{x}\" y=\"{y:.1}\">{label}</text>");
    }
    grid
}

fn height(value: f64, top: f64) -> f64 {
    HEIGHT - BOTTOM - (value / top).clamp(0.0, 1.0) * (HEIGHT - BOTTOM - TOP)
}

/// The next of 1, 2, 5, 10, 20 and so on; for small values, 1.
fn ceiling(value: f64) -> f64 {
    let mut top = 1.0;
    for step in [2.0, 2.5, 2.0].into_iter().cycle() {
        if top >= value || !value.is_finite() {
            break;
        }
        top *= step;
    }
    top
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_end_on_round_numbers() {
        let told = |value: f64| format!("{}", ceiling(value));
        let tops = [0.0, 1.0, 1.1, 3.0, 7.0, 120.0, 4_999.0].map(told);
        assert_eq!(tops, ["1", "1", "2", "5", "10", "200", "5000"]);
        assert_eq!([f64::NAN, f64::INFINITY].map(told), ["1", "1"]);
    }

    #[test]
    fn points_lie_where_their_values_say() {
        let rising = Line { name: "a<b", points: vec![(10.0, 0.0), (15.0, 50.0), (20.0, 100.0)] };
        let chart = lines("t", |value| format!("{value}"), &[rising]);
        assert!(chart.contains("points=\"70.0,176.0 350.0,93.0 630.0,10.0\""), "{chart}");
        assert!(chart.contains("a&lt;b <b>100</b>") && !chart.contains("a<b"), "{chart}");
    }

    #[test]
    fn nothing_yet_is_an_empty_chart() {
        let empty = Line { name: "a", points: Vec::new() };
        let chart = lines("t", |value| format!("{value}"), &[empty]);
        assert!(!chart.contains("polyline") && !chart.contains("NaN") && !chart.contains("inf"), "{chart}");
        assert!(!bars("t", "", &[]).contains("rect"));
    }

    #[test]
    fn the_highest_bar_is_the_most_frequent_value() {
        let chart = bars("t", "n", &[("1 ms".to_owned(), 50), ("2 ms".to_owned(), 100)]);
        assert!(chart.contains("height=\"83.0\"><title>1 ms: 50</title>"), "{chart}");
        assert!(chart.contains("height=\"166.0\"><title>2 ms: 100</title>"), "{chart}");
    }
}
