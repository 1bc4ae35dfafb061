//! Figures as people read them.

use std::time::Duration;

/// A count as a number to draw; beyond 2^52 it is rounded.
#[expect(clippy::cast_precision_loss, reason = "for people to look at")]
pub(crate) fn real(count: u64) -> f64 {
    count as f64
}

/// `1,234,567`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// One decimal below ten, none above.
pub(crate) fn rate(number: f64) -> String {
    if number < 9.95 { format!("{number:.1}") } else { format!("{number:.0}") }
}

/// `340 us`, `12 ms`, `1.5 s`, `2 min 5 s`, `3 h 20 min`.
pub(crate) fn time(time: Duration) -> String {
    let (seconds, micros) = (time.as_secs(), time.as_micros());
    match seconds {
        0 if micros == 0 => "0 s".to_owned(),
        0 if micros < 1_000 => format!("{micros} us"),
        0 => format!("{} ms", time.as_millis()),
        1..60 => format!("{seconds}.{} s", time.subsec_millis() / 100),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
    }
}

/// `512 B`, `1.5 KiB`, and so on.
pub(crate) fn bytes(number: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut number, mut unit) = (number, 0);
    while number >= 1_024.0 && unit + 1 < units.len() {
        (number, unit) = (number / 1_024.0, unit + 1);
    }
    if unit == 0 { format!("{number:.0} B") } else { format!("{number:.1} {}", units[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short_and_have_units() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0.0, 9.94, 9.96, 432.1].map(rate), ["0.0", "9.9", "10", "432"]);
        let times = [0, 340, 12_000, 1_590_000, 125_000_000, 12_000_000_000].map(Duration::from_micros);
        assert_eq!(times.map(time), ["0 s", "340 us", "12 ms", "1.5 s", "2 min 5 s", "3 h 20 min"]);
        assert_eq!([0.0, 512.0, 1_536.0, 3.0 * 1_048_576.0].map(bytes), ["0 B", "512 B", "1.5 KiB", "3.0 MiB"]);
    }
}
