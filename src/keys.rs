//! Decisions on subjects by their keys: run again, mark, delete. Encoded here, applied in journal order.

use crate::commit::{Change, Decision};
use crate::error::KeysError;
use crate::limits::Limits;
use crate::link::{Link, Precedence};
use crate::record::{self, KeyRecord};
use crate::service::{Key, contain};
use crate::ticket::Ticket;

/// Stands for every service, where a decision may.
pub(crate) const EVERY_SERVICE: u32 = 0;

/// Sends a decision on subjects as one change: it holds for all of them, or for none.
pub(crate) fn send<K: Key>(link: &Link, service: u32, decision: Decision, keys: &[K]) -> Result<Ticket, KeysError> {
    link.check()?;
    if keys.is_empty() {
        return Ok(Ticket::nothing());
    }
    let keys = encode(&link.limits, keys)?;
    let bytes = keys.len();
    Ok(link.send(Precedence::Submit, Change::Keys { service, decision, keys }, bytes)?)
}

/// A list of `KeyRecord`.
fn encode<K: Key>(limits: &Limits, keys: &[K]) -> Result<Vec<u8>, KeysError> {
    let (mut list, mut bytes) = (Vec::new(), Vec::new());
    for (place, key) in keys.iter().enumerate() {
        bytes.clear();
        contain(|| key.write(&mut bytes)).map_err(|what| KeysError::Encode { place, what })?;
        let limit = limits.key_bytes;
        if bytes.is_empty() || bytes.len() > limit {
            return Err(KeysError::Key { place, bytes: bytes.len(), limit });
        }
        record::append(&mut list, &KeyRecord { key: &bytes });
        let limit = limits.submit_bytes;
        if list.len() > limit {
            return Err(KeysError::TooLarge { place, limit });
        }
    }
    Ok(list)
}
