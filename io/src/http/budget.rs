//! What all requests and replies together hold in memory, and the share of each connection in it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use components::{Error, Result};

/// What one request or reply holds is small up to here. For such there is some of the budget that others do not get: so
/// whoever holds all that he can get stops nobody who asks for little.
pub(super) const SMALL_BYTES_MAX: usize = 64 * 1024;

/// The part of the budget that is for what is small.
const SMALL_SHARE: usize = 8;

/// The part of the budget that several requests and replies of one connection may hold together.
const CONNECTION_SHARE: usize = 4;

/// How many bytes of bodies and large replies all requests together may hold.
#[derive(Debug)]
pub(super) struct Budget {
    bytes: AtomicUsize,
    bytes_max: usize,
    /// Whether somebody was refused for want of it.
    is_short: AtomicBool,
}

impl Budget {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { bytes: AtomicUsize::new(0), bytes_max, is_short: AtomicBool::new(false) }
    }

    /// How much is held, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// How much may be held, in bytes.
    pub(super) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Note that somebody goes without.
    pub(super) fn set_short(&self) {
        self.is_short.store(true, Ordering::Relaxed);
    }

    /// Whether somebody went without since the last call.
    pub(super) fn was_short(&self) -> bool {
        self.is_short.swap(false, Ordering::Relaxed)
    }
}

/// What one connection holds of the budget, or one request of it.
#[derive(Debug)]
pub(super) struct Account {
    budget: Arc<Budget>,
    bytes: AtomicUsize,
    /// That of the connection, if this is the account of a request.
    connection: Option<Arc<Account>>,
}

impl Account {
    /// That of a connection.
    pub(super) fn new(budget: &Arc<Budget>) -> Arc<Self> {
        Arc::new(Self { budget: budget.clone(), bytes: AtomicUsize::new(0), connection: None })
    }

    /// That of a request with several charges, by that of its connection.
    pub(super) fn of_request(self: &Arc<Self>) -> Arc<Self> {
        let budget = self.budget.clone();
        Arc::new(Self { budget, bytes: AtomicUsize::new(0), connection: Some(self.clone()) })
    }

    /// How much it holds, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    fn add(&self, bytes: usize) -> usize {
        self.bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes)
    }

    fn give_back(&self, bytes: usize) {
        self.budget.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(connection) = &self.connection {
            connection.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

/// What a request and its reply hold of the budget, which they give back when it is dropped.
#[derive(Debug)]
pub(super) struct Charge {
    account: Arc<Account>,
    bytes: usize,
}

impl Charge {
    /// Nothing so far.
    pub(super) fn new(account: &Arc<Account>) -> Self {
        Self { account: account.clone(), bytes: 0 }
    }

    /// Charge more: what arrives, what it is decoded to, what is to be sent.
    ///
    /// # Errors
    /// 413 if it alone exceeds the budget; 503 if it does so together with others, or exceeds the share of its connection
    /// together with other requests of the same.
    pub(super) fn add(&mut self, bytes: usize) -> Result<()> {
        let Account { budget, connection, .. } = &*self.account;
        let all = budget.bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        let of_account = self.account.add(bytes);
        self.bytes += bytes;
        let (of_request, of_connection) = match connection {
            Some(connection) => (of_account, connection.add(bytes)),
            None => (self.bytes, of_account),
        };
        let bytes_max = match self.bytes {
            ..=SMALL_BYTES_MAX => budget.bytes_max,
            _ => budget.bytes_max - budget.bytes_max / SMALL_SHARE,
        };
        if self.bytes > bytes_max {
            return Err(Error::too_large(format_args!(
                "a request and its reply take at most {bytes_max} bytes of memory"
            )));
        }
        if all > bytes_max {
            budget.set_short();
            return Err(Error::unavailable(
                "too many bytes of requests and replies wait; try again in a second",
            ));
        }
        let share = budget.bytes_max / CONNECTION_SHARE;
        if of_connection > of_request && of_connection > share {
            return Err(Error::unavailable(format_args!(
                "the requests and replies of this connection would hold {of_connection} bytes of at most {share}; try \
                 again when it has read some"
            )));
        }
        Ok(())
    }

    /// How much is charged, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Give back so many bytes.
    pub(super) fn remove(&mut self, bytes: usize) {
        let less = bytes.min(self.bytes);
        // Most requests hold nothing, and the counter is everybody's.
        if less > 0 {
            self.bytes -= less;
            self.account.give_back(less);
        }
    }

    /// Give back all but so many bytes.
    pub(super) fn keep(&mut self, bytes: usize) {
        self.remove(self.bytes.saturating_sub(bytes));
    }

    /// Give everything back.
    pub(super) fn clear(&mut self) {
        self.keep(0);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use components::ErrorKind;

    use super::*;

    const MAX: usize = 1 << 20;

    fn kind(result: Result<()>) -> Option<ErrorKind> {
        result.err().map(|error| error.kind())
    }

    #[test]
    fn what_is_held_is_given_back() {
        let budget = Arc::new(Budget::new(MAX));
        let account = Account::new(&budget);
        let mut charge = Charge::new(&account);
        charge.add(100).unwrap();
        charge.add(23).unwrap();
        assert_eq!((budget.held_bytes(), account.held_bytes()), (123, 123));
        charge.clear();
        assert_eq!(budget.held_bytes(), 0);
        assert_eq!(kind(charge.add(MAX + 1)), Some(ErrorKind::TooLarge));
        assert!(!budget.was_short(), "nobody else is to blame");
        drop(charge);
        assert_eq!((budget.held_bytes(), account.held_bytes()), (0, 0));
    }

    #[test]
    fn what_is_small_has_a_part_of_its_own() {
        let budget = Arc::new(Budget::new(MAX));
        let mut large: Vec<Charge> = (0..4).map(|_| Charge::new(&Account::new(&budget))).collect();
        while large.iter_mut().all(|charge| charge.add(SMALL_BYTES_MAX).is_ok()) {}
        assert!(budget.was_short() && !budget.was_short());
        let mut small = Charge::new(&Account::new(&budget));
        small.add(SMALL_BYTES_MAX).unwrap();
        assert_eq!(kind(small.add(1)), Some(ErrorKind::Unavailable));
    }

    #[test]
    fn one_connection_has_a_share_of_which_one_request_alone_may_take_more() {
        let budget = Arc::new(Budget::new(MAX));
        let account = Account::new(&budget);
        let mut one = Charge::new(&account);
        one.add(MAX / 2).unwrap();
        let mut other = Charge::new(&account);
        assert_eq!(kind(other.add(1)), Some(ErrorKind::Unavailable));
        assert!(!budget.was_short(), "others are not short of it");
        Charge::new(&Account::new(&budget)).add(MAX / 4).unwrap();
        one.clear();
        other.add(1).unwrap();
    }

    #[test]
    fn the_charges_of_one_request_are_not_in_each_others_way() {
        let budget = Arc::new(Budget::new(MAX));
        let connection = Account::new(&budget);
        let request = connection.of_request();
        let (mut one, mut other) = (Charge::new(&request), Charge::new(&request));
        one.add(MAX / 2).unwrap();
        other.add(MAX / 4).unwrap();
        assert_eq!(kind(Charge::new(&connection).add(1)), Some(ErrorKind::Unavailable));
        one.keep(10);
        assert_eq!(connection.held_bytes(), 10 + MAX / 4);
        drop((one, other));
        assert_eq!((budget.held_bytes(), connection.held_bytes(), request.held_bytes()), (0, 0, 0));
    }
}
