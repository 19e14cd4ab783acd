//! Copies in memory that is there already.
//!
//! A core is copied on the thread that polls, and what that costs is fresh pages, twenty times the copy itself.
//! What the derived `clone_from` does is to clone and to drop.

/// Implements `Clone` with a `clone_from` that goes field by field. All fields have to be named.
macro_rules! clone_in_place {
    ($name:ident { $($field:ident),* $(,)? }) => {
        impl Clone for $name {
            fn clone(&self) -> Self {
                Self { $($field: self.$field.clone()),* }
            }

            fn clone_from(&mut self, from: &Self) {
                let Self { $($field),* } = from;
                $(self.$field.clone_from($field);)*
            }
        }
    };
}
