//! Where the dashboard is shown: a terminal, or lines of plain text.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use crate::dashboard;
use crate::sample::History;

/// How often it is seen whether the user wants to go.
const GLANCE: Duration = Duration::from_millis(50);
const BETWEEN_LINES: Duration = Duration::from_secs(1);
/// The text of the last moment, in characters.
const TEXT: (u16, u16) = (140, 42);

pub(crate) enum Screen {
    Terminal(DefaultTerminal),
    Lines { last: Option<Instant> },
}

impl Screen {
    /// The terminal, if there is one and it is wanted.
    pub(crate) fn open(terminal: bool) -> io::Result<Self> {
        if terminal && io::stdout().is_terminal() && io::stdin().is_terminal() {
            // A panic restores the terminal as well: that is in there.
            return ratatui::try_init().map(Self::Terminal).inspect_err(|_| ratatui::restore());
        }
        Ok(Self::Lines { last: None })
    }

    pub(crate) fn show(&mut self, history: &History) -> io::Result<()> {
        match self {
            Self::Terminal(terminal) => {
                terminal.draw(|frame| dashboard::draw(frame, history))?;
            }
            Self::Lines { last } if last.is_none_or(|last| last.elapsed() >= BETWEEN_LINES) => {
                println!("{}", dashboard::line(history));
                *last = Some(Instant::now());
            }
            Self::Lines { .. } => {}
        }
        Ok(())
    }

    /// Waits for so long, or until the user wants to go or `over` says so. True if the user does.
    pub(crate) fn wait(&self, time: Duration, over: impl Fn() -> bool) -> io::Result<bool> {
        let end = Instant::now() + time;
        while !over() {
            let left = end.saturating_duration_since(Instant::now()).min(GLANCE);
            if left.is_zero() {
                break;
            }
            match self {
                Self::Terminal(_) if event::poll(left)? => {
                    if quits(&event::read()?) {
                        return Ok(true);
                    }
                }
                Self::Terminal(_) => {}
                Self::Lines { .. } => std::thread::sleep(left),
            }
        }
        Ok(false)
    }

    /// Leaves the terminal as it was; without one, the last moment is told in full.
    pub(crate) fn close(self, history: &History) {
        if let Self::Lines { .. } = self {
            println!("{}", dashboard::text(history, TEXT.0, TEXT.1));
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if let Self::Terminal(_) = self {
            ratatui::restore();
        }
    }
}

/// In a terminal that reads keys one by one, Ctrl-C is a key.
fn quits(event: &Event) -> bool {
    let Event::Key(KeyEvent { code, modifiers, kind: KeyEventKind::Press, .. }) = event else { return false };
    match code {
        KeyCode::Char('q') | KeyCode::Esc => true,
        KeyCode::Char('c') => modifiers.contains(KeyModifiers::CONTROL),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q_esc_and_ctrl_c_quit() {
        let key = |code, modifiers| quits(&Event::Key(KeyEvent::new(code, modifiers)));
        assert!(key(KeyCode::Char('q'), KeyModifiers::NONE) && key(KeyCode::Esc, KeyModifiers::NONE));
        assert!(key(KeyCode::Char('c'), KeyModifiers::CONTROL) && !key(KeyCode::Char('c'), KeyModifiers::NONE));
        assert!(!quits(&Event::FocusGained));
    }
}
