//! What does not work about the disk, for those who show and tell it.

use std::sync::PoisonError;

use super::Brain;

impl Brain {
    /// Returns why what was learned or found is not on disk, if it is not.
    pub fn trouble(&self) -> Option<String> {
        self.0.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(in crate::agent) fn set_trouble(&self, trouble: Option<String>) {
        *self.0.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// Returns why nothing can be written to the state directory, if so.
    pub fn unwritable(&self) -> Option<String> {
        self.0.unwritable.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(in crate::agent) fn set_unwritable(&self, why: Option<String>) {
        *self.0.unwritable.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }
}
