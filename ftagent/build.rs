//! Builds the kernel programs that the daemon embeds, and the client of GoBGP's API.

include!("../ftagent-ebpf/host_build.rs");

fn main() {
    build_programs(&["ftagent-datapath"]);
    build_client();
}

/// Makes the messages and the client of `proto/gobgp.proto`; no `protoc` is needed.
fn build_client() {
    println!("cargo::rerun-if-changed=proto/gobgp.proto");
    let built = protox::compile(["proto/gobgp.proto"], ["proto"]).map_err(|error| error.to_string()).and_then(|set| {
        let configured = tonic_prost_build::configure().build_server(false).build_transport(false);
        configured.compile_fds(set).map_err(|error| error.to_string())
    });
    if let Err(error) = built {
        fail(&format!("proto/gobgp.proto: {error}"));
    }
}
