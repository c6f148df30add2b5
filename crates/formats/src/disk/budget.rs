//! Work that one call may ask of images, and the word to stop.
//!
//! Each object of an image has limits of its own, but an image has any number of objects, and all of them may lead to
//! what costs most. So a call counts what it does, in steps: some 4 KiB read, a stretch of a file looked for, a name or
//! an attribute taken. No clock is in it: the same image costs the same everywhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::DiskError;
use super::error::Reading;

/// Bytes that are read in one step.
const PIECE: usize = 4096;

/// Steps that one call may take, of which all clones take together. A step takes the host about a microsecond.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limit: u64,
    spent: AtomicU64,
    cancelled: AtomicBool,
}

impl Budget {
    /// Budget of `limit` steps.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        Self(Arc::new(Shared { limit, spent: AtomicU64::new(0), cancelled: AtomicBool::new(false) }))
    }

    /// Steps that were taken; as many as there are, once one was refused.
    #[must_use]
    pub fn spent(&self) -> u64 {
        self.0.spent.load(Ordering::Relaxed)
    }

    /// Ends all reading within this budget: the next step of it is [`DiskError::Cancelled`].
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether it was cancelled.
    pub(super) fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::Relaxed)
    }

    /// Guard that cancels when it is dropped.
    #[must_use]
    pub fn cancel_on_drop(&self) -> CancelOnDrop {
        CancelOnDrop(self.clone())
    }

    /// Takes `steps`, before the work is done.
    pub(super) fn spend(&self, steps: u64) -> Result<(), DiskError> {
        if self.is_cancelled() {
            return Err(DiskError::Cancelled);
        }
        let limit = self.0.limit;
        let within = |spent: u64| spent.checked_add(steps).filter(|sum| *sum <= limit);
        if self.0.spent.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).is_err() {
            // Whoever was refused much gets no more little by little.
            self.0.spent.store(limit, Ordering::Relaxed);
            return Err(DiskError::TooMuchWork { reading: Reading::Image, limit });
        }
        Ok(())
    }

    /// Takes the steps that reading `bytes` costs.
    pub(super) fn spend_reading(&self, bytes: usize) -> Result<(), DiskError> {
        self.spend(bytes.div_ceil(PIECE).max(1) as u64)
    }
}

/// Guard of a call: reading within its [`Budget`] ends when nobody waits for the call any more.
#[derive(Debug)]
pub struct CancelOnDrop(Budget);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_clones_spend_from_one_budget() {
        let budget = Budget::new(10);
        let clone = budget.clone();
        budget.spend(4).unwrap();
        clone.spend_reading(6 * PIECE).unwrap();
        assert_eq!(budget.spent(), 10);
        let error = budget.spend(1).unwrap_err();
        assert!(matches!(error, DiskError::TooMuchWork { reading: Reading::Image, limit: 10 }), "{error}");
        // What was refused much is refused little, too.
        let budget = Budget::new(10);
        assert!(budget.spend(u64::MAX).is_err() && budget.spend(1).is_err());
        assert_eq!(budget.spent(), 10);
    }

    #[test]
    fn a_guard_that_is_dropped_cancels() {
        let budget = Budget::new(10);
        let guard = budget.cancel_on_drop();
        budget.spend_reading(0).unwrap();
        drop(guard);
        assert!(matches!(budget.spend(1), Err(DiskError::Cancelled)));
        assert_eq!(budget.spent(), 1);
    }
}
