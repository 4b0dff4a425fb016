//! What the values of a program take in memory, on the account of its transaction.

use std::fmt::Debug;
use std::sync::Arc;

use crate::value::error::Result;

/// Whoever answers for the memory that a program takes: its transaction.
pub trait Account: Debug + Send + Sync {
    /// Take so many bytes more.
    ///
    /// # Errors
    /// 400 if the transaction would take more than it may; then it takes none.
    fn reserve(&self, bytes: u64) -> Result<()>;

    /// Give so many bytes back.
    ///
    /// # Panics
    /// If more is given back than was taken.
    fn release(&self, bytes: u64);
}

/// Bytes that something holds for as long as it lives, on the account of its transaction.
#[derive(Debug)]
pub struct Reservation {
    account: Arc<dyn Account>,
    bytes: u64,
}

impl Reservation {
    /// Nothing yet.
    pub fn new(account: Arc<dyn Account>) -> Self {
        Self { account, bytes: 0 }
    }

    /// How much is held, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Hold so many bytes more.
    ///
    /// # Errors
    /// As [`Account::reserve`].
    pub fn grow(&mut self, bytes: u64) -> Result<()> {
        self.account.reserve(bytes)?;
        self.bytes += bytes;
        Ok(())
    }

    /// Hold so many bytes, no more and no less.
    ///
    /// # Errors
    /// As [`Account::reserve`].
    pub fn hold(&mut self, bytes: u64) -> Result<()> {
        match self.bytes.checked_sub(bytes) {
            Some(less) => {
                self.shrink(less);
                Ok(())
            }
            None => self.grow(bytes - self.bytes),
        }
    }

    /// Hold so many bytes less.
    pub fn shrink(&mut self, bytes: u64) {
        self.bytes = self.bytes.checked_sub(bytes).expect("no more is given back than was held");
        self.account.release(bytes);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.account.release(self.bytes);
    }
}
