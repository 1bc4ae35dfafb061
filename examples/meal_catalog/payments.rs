//! Payments: what is reserved is charged, and what was paid too late is given back, through the outbox.

use std::sync::Arc;

use commissary::{Courier, Event, EventKind, IdempotencyKey, Retry};
use serde::{Deserialize, Serialize};

use super::commands::{Fridge, Meal, Meals, OrderId, Said, Told};
use super::provider::{Bill, Line, Provider};

/// What is to be done at the provider.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) enum Effect {
    Charge { order: OrderId, fridge: Fridge, meal: Meal, at: u64 },
    Refund { order: OrderId },
}

/// Carries money matters to the provider. Its answers come back as commands for the fridge.
#[derive(Debug)]
pub(crate) struct Payments(pub(crate) Arc<Provider>);

/// What the fridges of this event told.
pub(crate) fn told(event: &Event) -> Vec<(u64, Told)> {
    let EventKind::Reported { service, reports, .. } = &event.kind else { return Vec::new() };
    if !service.id.starts_with(Meals::PREFIX) {
        return Vec::new();
    }
    // One whose deadline had passed has no report.
    reports.iter().filter_map(|report| Some((report.rank, report.read::<Meals>()?))).collect()
}

impl Courier for Payments {
    type Effect = Effect;

    fn id(&self) -> &'static str {
        "payments"
    }

    fn effects(&self, event: &Event) -> Vec<(u64, Effect)> {
        let effect = |(rank, told): (u64, Told)| match told.said {
            Said::Reserved { order, meal, .. } => {
                Some((rank, Effect::Charge { order, fridge: told.fridge, meal, at: told.at }))
            }
            Said::TooLate { order, paid: true } => Some((rank, Effect::Refund { order })),
            _ => None,
        };
        told(event).into_iter().filter_map(effect).collect()
    }

    /// Each order by itself: one that does not get through holds up no other.
    fn order(&self, effect: &Effect) -> Vec<u8> {
        let (Effect::Charge { order, .. } | Effect::Refund { order }) = effect;
        order.to_be_bytes().to_vec()
    }

    fn dispatch(&self, effect: &Effect, key: &IdempotencyKey) -> Result<(), Retry> {
        let line = match *effect {
            Effect::Charge { order, fridge, meal, at } => {
                self.0.charge(&key.to_string(), Bill { order, fridge, meal, at })
            }
            Effect::Refund { order } => self.0.refund(order),
        };
        match line.map_err(|error| Retry::never(error.to_string()))? {
            Line::Done => Ok(()),
            Line::Broken => Err(Retry::new("the line is broken")),
            Line::NoAccount => Err(Retry::never("no such account")),
        }
    }
}
