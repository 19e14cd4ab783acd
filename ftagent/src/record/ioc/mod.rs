//! Indicators: patterns of tools that samples are compared with, and what is known of an attack's sources,
//! for people and for other machines. Nothing here is on the packet's path: samples are looked at by whoever
//! records them. `docs/INDICATORS.md` has the format.

mod companion;
mod condition;
mod extract;
pub mod field;
mod files;
pub mod heavy;
pub mod ja4;
mod library;
mod namer;
mod pattern;
mod read;
mod report;
mod sources;
pub mod stix;
mod table;

pub use companion::{Collector, Shelf, Teller};
pub use condition::Condition;
pub use extract::Extraction;
pub use field::Look;
pub use files::{Looked, Watched, check};
pub use library::{CUSTOM, Library, Scratch};
pub use namer::Namer;
pub use pattern::{Kind, Needle, Origin, Pattern};
pub use read::{Problem, read};
pub use report::{FILE_NAME, IocReport, load, save};
pub use table::markdown;

#[cfg(test)]
mod tests;
