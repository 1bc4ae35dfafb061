//! A walk over a range of keys that is too long for one scan.

use super::{Pair, Store, StoreError};

/// The pairs with `start <= key < end` (`end` of `None` = to the end), in key order, read `page` by `page` as they are
/// asked for. As weak as scans are: a batch applied meanwhile may show in what is read later.
pub(crate) fn walk(
    store: &dyn Store,
    start: Vec<u8>,
    end: Option<Vec<u8>>,
    page: usize,
) -> impl Iterator<Item = Result<Pair, StoreError>> {
    let (mut start, mut read) = (start, Vec::new().into_iter());
    std::iter::from_fn(move || {
        if read.len() == 0 {
            let pairs = match store.scan(&start, end.as_deref(), page) {
                Ok(pairs) => pairs,
                Err(error) => return Some(Err(error)),
            };
            let (last, _) = pairs.last()?;
            start = after(last);
            read = pairs.into_iter();
        }
        read.next().map(Ok)
    })
}

/// The least key that is greater than `key`.
pub(crate) fn after(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}
