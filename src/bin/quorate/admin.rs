//! `token show`, `leader transfer`.
//!
//! Owns their words. Called by `main`.

use serde_json::json;

use crate::args::{Global, Role};
use crate::failure::Failure;
use crate::output::Output;
use crate::target;

pub(crate) async fn token(role: Role, global: &Global, output: Output) -> Result<(), Failure> {
    let client = target::client(global).await?;
    let token = client.join_token(role.word()).await?;
    if output.json {
        return output.document(&json!({ "role": role.word(), "token": token }));
    }
    // The addresses are only for the reader's comfort: without them the token is just as good.
    let managers = client.status().await.map_or_else(
        |_no_status| "HOST:PORT".to_owned(),
        |status| {
            let reachable = status.managers.into_iter().filter(|manager| manager.reachable);
            reachable.map(|manager| manager.address).collect::<Vec<_>>().join(",")
        },
    );
    // A worker listens nowhere.
    let listen = if role == Role::Manager { "--listen ADDR " } else { "" };
    output.line(&format!("Whoever has this token can join as a {}. On the new machine:", role.word()))?;
    output.line("")?;
    output.line(&format!(
        "  quorate join --data-dir /var/lib/quorate {listen}--manager {managers} --token {token}"
    ))?;
    output.line("  quorate run --data-dir /var/lib/quorate")?;
    output.line("")?;
    output.line(&token)
}

pub(crate) async fn transfer(to: Option<&str>, global: &Global, output: Output) -> Result<(), Failure> {
    let leader = target::client(global).await?.transfer_leadership(to).await?;
    if output.json {
        return output.document(&json!({ "leader": leader }));
    }
    output.line(&format!("{leader} leads"))
}
