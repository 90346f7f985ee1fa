//! `leader transfer`.
//!
//! Owns its words. Called by `main`.

use serde_json::json;

use crate::args::Global;
use crate::failure::Failure;
use crate::output::Output;
use crate::target;

pub(crate) async fn transfer(to: Option<&str>, global: &Global, output: Output) -> Result<(), Failure> {
    let leader = target::client(global).await?.transfer_leadership(to).await?;
    if output.json {
        return output.document(&json!({ "leader": leader }));
    }
    output.line(&format!("{leader} leads"))
}
