//! Generates the wire messages from `proto/*.proto` with a pure Rust compiler: no protoc is needed anywhere.

use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let mut files: Vec<PathBuf> = std::fs::read_dir("proto")?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()?
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "proto"))
        .collect();
    files.sort();
    let descriptors = protox::compile(&files, ["proto"])?;
    // What may hold a key is never printed.
    let secrets = [
        "api.v1.KeyOrder",
        "api.v1.KeyOrder.order",
        "api.v1.KeyOrderDone",
        "api.v1.Unlock",
        "api.v1.BackupPart",
        "api.v1.BackupPart.part",
        "api.v1.ObjectCreate",
        "api.v1.ObjectDataDone",
        "api.v1.TokenRotate",
        "api.v1.TokenCreate",
        "api.v1.TokenDone",
        "api.v1.Compromised",
        // The request in it may be any of these.
        "api.v1.PassedOn",
        "session.v1.Object",
        "wire.v1.JoinRequest",
    ]
    .map(|name| format!(".quorate.{name}"));
    let mut config = prost_build::Config::new();
    // Few errors have one, and an error is what most functions may answer with.
    config.bytes(["."]).skip_debug(secrets).boxed(".quorate.api.v1.Error.limit").boxed(".quorate.api.v1.Error.missing");
    config.compile_fds(descriptors)?;
    Ok(())
}
