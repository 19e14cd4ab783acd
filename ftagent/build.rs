//! Builds the kernel programs that the daemon embeds.

include!("../ftagent-ebpf/host_build.rs");

fn main() {
    build_programs(&["ftagent-datapath"]);
}
