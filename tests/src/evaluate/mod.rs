//! The project's scoreboard: every scenario of `tests/scenarios` through the real datapath and the
//! real decisions, and how many came out right.
//!
//! [`list`] reads what is to be run, [`generate`] writes the captures that nobody has, [`compose`]
//! makes scenarios of both, [`run`] runs them, [`score`] judges each, and [`report`] adds up. The
//! judge is strict: one vector too many is wrong, and so is an incident before its attack.
//!
//! While a case runs, [`removal`] watches what is removed of the attack and what of the rest, and
//! [`peers`] what simpler defences would have done to the same packets; [`mitigation`] judges that.

pub mod capsules;
pub mod compose;
pub mod generate;
pub mod list;
pub mod mitigation;
pub mod peers;
pub mod removal;
pub mod report;
pub mod run;
pub mod score;
