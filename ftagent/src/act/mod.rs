//! What the daemon does to the kernel and beyond, one driver per plane.

pub mod bgp;
pub mod enforcer;
pub mod guard;
pub mod http;
pub mod machine;
pub mod nft;
pub mod operator;
pub mod scrub;
pub mod store;
pub mod tripwire;
pub mod upstream;
