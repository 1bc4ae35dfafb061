//! What others make of the events, each by itself and at its own pace: what is to be had where, and how sales go.

use std::collections::BTreeMap;
use std::sync::Arc;

use commissary::{Event, EventKind, Projection};
use serde::{Deserialize, Serialize};

use super::commands::{Command, Fridge, Meals, Said};
use super::payments::told;

/// How places are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    Venues,
    Areas,
}

impl Over {
    pub(crate) fn place(self, fridge: Fridge) -> u16 {
        match self {
            Self::Venues => fridge.venue,
            Self::Areas => fridge.area,
        }
    }
}

/// R128: what is to be had of each meal, added up over the fridges of a venue, or of an area.
#[derive(Debug)]
pub(crate) struct Availability(pub(crate) Over);

/// Place and meal to units; what is sold out is not there.
pub(crate) type Offers = BTreeMap<u16, BTreeMap<u64, u64>>;

/// The same, cheap to publish: only places that changed are copied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Shared(BTreeMap<u16, Arc<BTreeMap<u64, u64>>>);

impl Shared {
    pub(crate) fn offers(&self) -> Offers {
        let places = self.0.iter().filter(|(_, meals)| !meals.is_empty());
        places.map(|(place, meals)| (*place, BTreeMap::clone(meals))).collect()
    }

    pub(crate) fn units(&self) -> u64 {
        self.0.values().flat_map(|meals| meals.values()).sum()
    }
}

impl Serialize for Shared {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(place, meals)| (place, &**meals)))
    }
}

impl<'de> Deserialize<'de> for Shared {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let places = BTreeMap::<u16, BTreeMap<u64, u64>>::deserialize(deserializer)?;
        Ok(Self(places.into_iter().map(|(place, meals)| (place, Arc::new(meals))).collect()))
    }
}

impl Projection for Availability {
    type State = Shared;

    fn id(&self) -> &'static str {
        match self.0 {
            Over::Venues => "venues",
            Over::Areas => "areas",
        }
    }

    fn fold(&self, state: &mut Shared, event: &Event) {
        for (_, told) in told(event) {
            for change in told.changes {
                let meals = Arc::make_mut(state.0.entry(self.0.place(told.fridge)).or_default());
                let units = meals.entry(change.meal).or_default();
                *units = (*units + change.after.available).saturating_sub(change.before.available);
                if *units == 0 {
                    meals.remove(&change.meal);
                }
            }
        }
    }
}

/// How sales go, in all.
#[derive(Debug)]
pub(crate) struct Sales;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// The last shift of which something was sent.
    pub(crate) shift: Option<u32>,
    /// Units: what was put in; what is held; what is sold.
    pub(crate) released: u64,
    pub(crate) held: u64,
    pub(crate) confirmed: u64,
    /// Orders.
    pub(crate) reserved: u64,
    pub(crate) sold_out: u64,
    pub(crate) no_such_meal: u64,
    pub(crate) no_units: u64,
    /// Their time was over before their fridge came to them.
    pub(crate) expired: u64,
    pub(crate) sold: u64,
    pub(crate) cancelled: u64,
    /// Not paid for in time.
    pub(crate) lapsed: u64,
    pub(crate) answered_again: u64,
    pub(crate) too_late: u64,
    pub(crate) no_such_order: u64,
    /// To be given back, each order once.
    pub(crate) refunds: u64,
    /// Items of releases and counts.
    pub(crate) stocked: u64,
    pub(crate) repeated: u64,
    pub(crate) covered: u64,
    pub(crate) stale: u64,
    pub(crate) refused: u64,
}

impl Figures {
    fn take(&mut self, said: Said) {
        match said {
            Said::Stocked { applied, repeated, covered, stale, refused } => {
                self.stocked += u64::from(applied);
                self.repeated += u64::from(repeated);
                self.covered += u64::from(covered);
                self.stale += u64::from(stale);
                self.refused += u64::from(refused);
            }
            Said::Reserved { units, .. } => {
                self.reserved += 1;
                self.held += units;
            }
            Said::SoldOut { .. } => self.sold_out += 1,
            Said::NoSuchMeal { .. } => self.no_such_meal += 1,
            Said::NoUnits { .. } => self.no_units += 1,
            Said::Confirmed { units, first: true, .. } => {
                self.sold += 1;
                self.confirmed += units;
                self.held = self.held.saturating_sub(units);
            }
            Said::GivenBack { units, first: true, .. } => {
                self.cancelled += 1;
                self.held = self.held.saturating_sub(units);
            }
            Said::Confirmed { .. } | Said::GivenBack { .. } => self.answered_again += 1,
            Said::TooLate { paid, .. } => {
                self.too_late += 1;
                self.refunds += u64::from(paid);
            }
            Said::NoSuchOrder { .. } => self.no_such_order += 1,
            Said::Looked => {}
        }
    }

    /// Orders that got an answer, of whatever kind.
    pub(crate) fn answered(&self) -> u64 {
        self.reserved + self.sold_out + self.no_such_meal + self.no_units + self.expired
    }
}

impl Projection for Sales {
    type State = Figures;

    fn id(&self) -> &'static str {
        "sales"
    }

    fn fold(&self, figures: &mut Figures, event: &Event) {
        if let EventKind::Added { service, subjects } = &event.kind
            && service.id.starts_with(Meals::PREFIX)
        {
            let read = |body: &[u8]| postcard::from_bytes::<Command>(body).ok();
            let shifts = subjects.iter().filter_map(|subject| Some(read(&subject.body)?.shift));
            figures.shift = shifts.max().max(figures.shift);
        }
        if let EventKind::Reported { service, reports, .. } = &event.kind
            && service.id.starts_with(Meals::PREFIX)
        {
            figures.expired += reports.iter().filter(|report| report.expired).count() as u64;
        }
        for (_, told) in told(event) {
            figures.take(told.said);
            figures.lapsed += told.lapsed.len() as u64;
            figures.held = figures.held.saturating_sub(told.lapsed.iter().map(|gone| gone.units).sum());
            for change in told.changes {
                figures.released = (figures.released + change.after.added).saturating_sub(change.before.added);
            }
        }
    }
}
