//! Builds the kernel programs that the traffic generator and the benchmarks load.

include!("../ftagent-ebpf/host_build.rs");

fn main() {
    build_programs(&["ftagent-traffic", "ftagent-bench"]);
}
