//! What a projection begins with: what was saved, or nothing.

use serde::de::DeserializeOwned;

use super::{AfterLag, ProjectionReport};
use crate::bookmark::{Bookmark, Found, Mark};
use crate::error::{ProjectError, ReadError};
use crate::follow::EventTail;
use crate::house::House;
use crate::service::contain;

/// What a projection begins with.
pub(super) struct Begun<S> {
    pub(super) tail: EventTail,
    pub(super) state: S,
    pub(super) as_of_ms: u64,
    /// The position of what was saved, if it is used.
    pub(super) saved: Option<u64>,
}

impl<S: DeserializeOwned + Default> Begun<S> {
    pub(super) fn find(
        house: &House,
        mark: &mut Mark,
        version: u32,
        after_lag: AfterLag,
    ) -> Result<(Self, ProjectionReport), ProjectError> {
        let mut report = ProjectionReport::default();
        house.marks.anchor(house, mark)?;
        let begun = match Self::saved(house, mark, version, &mut report)? {
            Some((bookmark, state)) => EventTail::open(house, bookmark.position).map(|tail| Self {
                tail,
                state,
                // Hub time may have gone back: after a crash it is what the journal knows of it.
                as_of_ms: bookmark.as_of_ms.min(house.link.clock.now()),
                saved: Some(bookmark.position),
            }),
            None => Self::anew(house, 0),
        };
        let begun = match begun {
            Err(ReadError::Lagged { resume_at }) if after_lag == AfterLag::BeginThere => {
                report.lagged = Some(resume_at);
                Self::anew(house, resume_at)?
            }
            Err(ReadError::Lagged { resume_at }) => {
                return Err(ProjectError::Lagged { id: mark.id().to_owned(), resume_at });
            }
            begun => begun?,
        };
        report.resumed_at = begun.tail.position();
        Ok((begun, report))
    }

    fn anew(house: &House, from: u64) -> Result<Self, ReadError> {
        Ok(Self { tail: EventTail::open(house, from)?, state: S::default(), as_of_ms: 0, saved: None })
    }

    /// The saved state, if there is one that can be used; otherwise says in the report why not.
    fn saved(
        house: &House,
        mark: &mut Mark,
        version: u32,
        report: &mut ProjectionReport,
    ) -> Result<Option<(Bookmark, S)>, ProjectError> {
        let found = mark.read().map_err(|source| ProjectError::Load { id: mark.id().to_owned(), source })?;
        let why = match found {
            Found::Nothing => return Ok(None),
            Found::Bad(what) => what,
            Found::Bookmark(bookmark) if bookmark.version != version => {
                format!("it was saved by version {}, this is version {version}", bookmark.version)
            }
            Found::Bookmark(bookmark) if !house.marks.holds(house, mark, &bookmark)? => {
                "it reflects more than the journal holds, or another journal".to_owned()
            }
            Found::Bookmark(bookmark) => match decode::<S>(&bookmark.body) {
                Ok(state) => return Ok(Some((bookmark, state))),
                Err(what) => what,
            },
        };
        tracing::warn!(projection = mark.id(), why, "projection is folded anew");
        report.rebuilt = Some(why);
        Ok(None)
    }
}

fn decode<S: DeserializeOwned>(body: &[u8]) -> Result<S, String> {
    let decoded =
        contain(|| postcard::take_from_bytes(body).map_err(|error| error.to_string())).and_then(|found| found);
    match decoded {
        Ok((state, [])) => Ok(state),
        Ok((_, rest)) => Err(format!("the state does not decode: {} bytes left over", rest.len())),
        Err(what) => Err(format!("the state does not decode: {what}")),
    }
}
