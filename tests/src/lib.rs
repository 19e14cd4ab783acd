//! What the end-to-end tests, the demo and the benchmarks share: private network namespaces,
//! packets built from fields, and traffic at millions of packets per second.

pub mod customers;
pub mod daemon;
pub mod edge;
pub mod evaluate;
pub mod http;
pub mod packet;
pub mod peers;
pub mod provider;
pub mod sandbox;
pub mod simulate;
pub mod traffic;
