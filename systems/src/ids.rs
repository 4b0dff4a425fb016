//! The ids of transactions: those that the host gives out, and those that callers choose. None is ever used twice.

use std::collections::{BTreeSet, VecDeque};

use components::{Error, Result, TxnId};

use crate::limits::Limits;

/// The nonce of the ids of this host. Its ids differ in time, so one nonce will do until hosts share clusters.
const NONCE: u16 = 1;

/// How many ids of each kind are remembered. Of those that came before, it is known only that they did: what is not newer
/// than one of them cannot be chosen any more.
pub const IDS_MAX: usize = 1 << 20;

/// The ids that were given out or seen, as long as they could come again.
#[derive(Debug, Default)]
pub struct Ids {
    last: TxnId,
    floor: TxnId,
    /// The times of the ids that the host has given out, ascending.
    minted_ns: VecDeque<u64>,
    chosen: BTreeSet<TxnId>,
}

impl Ids {
    /// Whatever is not after `floor` was used before.
    pub fn after(floor: TxnId) -> Self {
        Self { last: floor, floor, ..Self::default() }
    }

    /// The last id that was given out or seen.
    pub fn last(&self) -> TxnId {
        self.last
    }

    /// The next id of this host: later than the clock, and than every id before it.
    pub fn mint(&mut self, limits: &Limits, now_ns: u64) -> TxnId {
        let id = TxnId::new(now_ns.max(self.last.time_ns() + 1), NONCE);
        self.last = id;
        self.minted_ns.push_back(id.time_ns());
        self.forget(limits, now_ns);
        id
    }

    /// The id that a caller chose, if it may be used.
    ///
    /// # Errors
    /// 400 if its time is too far away, 409 if it was or may have been used before.
    pub fn accept(&mut self, limits: &Limits, id: TxnId, now_ns: u64) -> Result<TxnId> {
        if id.time_ns() > now_ns.saturating_add(limits.clock_skew_ns_max) {
            return Err(Error::bad_request(format_args!("the transaction id {id} is in the future")));
        }
        if id.time_ns() < now_ns.saturating_sub(limits.request_ttl_ns) {
            return Err(Error::bad_request(format_args!("the transaction id {id} is too old")));
        }
        let is_minted = id.nonce() == NONCE && self.minted_ns.binary_search(&id.time_ns()).is_ok();
        if id <= self.floor || is_minted || !self.chosen.insert(id) {
            return Err(Error::conflict(format_args!("the transaction {id} has been seen before")));
        }
        self.last = self.last.max(id);
        self.forget(limits, now_ns);
        Ok(id)
    }

    /// Forget what is too old to be chosen, and the oldest if there are too many. Should the clock go back, they are not
    /// accepted either.
    fn forget(&mut self, limits: &Limits, now_ns: u64) {
        let oldest_ns = now_ns.saturating_sub(limits.request_ttl_ns);
        while let Some(time_ns) = self.minted_ns.front().copied()
            && (time_ns < oldest_ns || self.minted_ns.len() > IDS_MAX)
        {
            self.minted_ns.pop_front();
            self.floor = self.floor.max(TxnId::new(time_ns, NONCE));
        }
        while let Some(id) = self.chosen.first().copied()
            && (id.time_ns() < oldest_ns || self.chosen.len() > IDS_MAX)
        {
            self.chosen.pop_first();
            self.floor = self.floor.max(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use components::ErrorKind;

    const START_NS: u64 = 1_800_000_000_000_000_000;

    fn status(ids: &mut Ids, id: TxnId, now_ns: u64) -> Option<ErrorKind> {
        ids.accept(&Limits::default(), id, now_ns).err().map(|error| error.kind())
    }

    #[test]
    fn an_id_is_used_once_whoever_had_it_first() {
        let limits = Limits::default();
        let mut ids = Ids::after(TxnId::new(START_NS, 0));
        let minted: Vec<TxnId> = (0..5).map(|i| ids.mint(&limits, START_NS + i / 2)).collect();
        assert!(minted.is_sorted_by(|this, next| this < next), "{minted:?}");
        let chosen = TxnId::new(START_NS + 1_000, 7);
        assert_eq!(status(&mut ids, chosen, START_NS + 10), None);
        let after = ids.mint(&limits, START_NS + 10);
        assert!(after > chosen, "what is given out is newer than everything");
        let floor = TxnId::new(START_NS, 0);
        for used in minted.iter().chain([&chosen, &after, &floor]) {
            assert_eq!(status(&mut ids, *used, START_NS + 20), Some(ErrorKind::Conflict), "{used}");
        }
        let beside = TxnId::new(minted[3].time_ns(), 2);
        assert_eq!(status(&mut ids, beside, START_NS + 20), None, "nobody had this one");
    }

    #[test]
    fn an_id_stays_used_when_the_clock_goes_back() {
        let limits = Limits::default();
        let mut ids = Ids::after(TxnId::new(START_NS, 0));
        let minted = ids.mint(&limits, START_NS + 1_000);
        let chosen = TxnId::new(START_NS + 2_000, 7);
        assert_eq!(status(&mut ids, chosen, START_NS + 1_000), None);
        ids.mint(&limits, START_NS + 10 * limits.request_ttl_ns);
        assert!(ids.minted_ns.len() == 1 && ids.chosen.is_empty(), "both are too old to be remembered");
        for used in [minted, chosen] {
            assert_eq!(status(&mut ids, used, START_NS + 5_000), Some(ErrorKind::Conflict));
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let limits = Limits::default();
        let mut ids = Ids::after(TxnId::new(START_NS, 0));
        let first = ids.mint(&limits, START_NS + 1);
        for _ in 0..IDS_MAX {
            ids.mint(&limits, START_NS + 1);
        }
        assert_eq!(ids.minted_ns.len(), IDS_MAX);
        assert_eq!(status(&mut ids, first, START_NS + 2), Some(ErrorKind::Conflict));
    }
}
