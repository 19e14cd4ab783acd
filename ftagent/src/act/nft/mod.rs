//! The nftables plane: the same rules as [`crate::act::enforcer::Enforcer`] puts into the kernel program,
//! in a table of its own, for hosts where XDP cannot attach or where the operator prefers it.
//!
//! The table `netdev ftagent` hangs at the ingress of each interface, before all other tables of the
//! host, iptables-nft's included, and touches none of them: what it accepts they still judge. Where there
//! is no ingress hook it is `inet ftagent` before routing. Every change is one transaction of one
//! `nft -j -f -`. A rule lives as long as the elements of its *lease*, a set with timeouts, which the
//! daemon renews: when it dies, the kernel ends each rule at its own time.

mod intervals;
mod plane;
mod program;
mod read;
mod table;
mod words;

pub use intervals::{Entry, Interval, intervals};
pub use plane::{NftPlane, Remote};
pub use program::{Nft, NftError, Runner};
pub use table::{Refused, Table, probe};
pub use words::{Hook, TABLE, gone};
