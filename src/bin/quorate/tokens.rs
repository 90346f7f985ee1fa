//! `token show | rotate | create | ls | revoke`.
//!
//! Owns their words. Never prints a secret but as the last line of an answer that was asked for it. Called by `main`.

use std::time::Duration;

use quorate::Client;
use quorate::membership::{NewToken, Role as NodeRole, TokenInfo};
use quorate::status::span;
use serde_json::{Value, json};

use crate::args::Global;
use crate::args_membership::{Create, Role, Token};
use crate::failure::Failure;
use crate::output::{Output, table};
use crate::target;

const fn role(role: Role) -> NodeRole {
    match role {
        Role::Manager => NodeRole::Manager,
        Role::Worker => NodeRole::Worker,
    }
}

pub(crate) async fn run(verb: Token, global: &Global, output: Output) -> Result<(), Failure> {
    let client = target::client(global).await?;
    match verb {
        Token::Show { role: of } => {
            let token = client.tokens().show(role(of)).await?;
            standing(role(of), &token, "Whoever has this token can join", &client, output).await
        }
        Token::Rotate { role: of } => {
            let token = client.tokens().rotate(role(of)).await?;
            let words = "The token before this one lets nobody in any more. Whoever has this one can join";
            standing(role(of), &token, words, &client, output).await
        }
        Token::Create(create) => self::create(create, &client, output).await,
        Token::Ls => list(&client, output).await,
        Token::Revoke { id } => {
            client.tokens().revoke(&id).await?;
            if output.json {
                return output.document(&json!({ "id": id, "revoked": true }));
            }
            output.line(&format!("token {id} lets nobody in any more; who is in stays in"))
        }
    }
}

async fn standing(role: NodeRole, token: &str, words: &str, client: &Client, output: Output) -> Result<(), Failure> {
    if output.json {
        return output.document(&json!({ "role": role.word(), "token": token }));
    }
    let words = format!("{words} as a {}. On the new machine:", role.word());
    commands(role, &words, client, output, token).await
}

/// How the token is used; the bare token is the last line. All of it at once: a reader has the token, or it is known that none has.
async fn commands(role: NodeRole, words: &str, client: &Client, output: Output, token: &str) -> Result<(), Failure> {
    // The addresses are only for the reader's comfort: without them the token is just as good.
    let managers = client.status().await.map_or_else(
        |_no_status| "HOST:PORT".to_owned(),
        |status| {
            let reachable = status.managers.into_iter().filter(|manager| manager.reachable);
            reachable.map(|manager| manager.address).collect::<Vec<_>>().join(",")
        },
    );
    // A worker listens nowhere.
    let listen = if role == NodeRole::Manager { "--listen ADDR " } else { "" };
    output.line(&format!(
        "{words}\n\n  quorate join --data-dir /var/lib/quorate {listen}--manager {managers} --token {token}\n  quorate run --data-dir /var/lib/quorate\n\n{token}"
    ))
}

async fn create(create: Create, client: &Client, output: Output) -> Result<(), Failure> {
    let builder = client.tokens().create(role(create.role)).uses(create.uses);
    let NewToken { token, info } = match create.ttl.0 {
        Some(ttl) => builder.ttl(ttl).await?,
        None => builder.forever().await?,
    };
    // It stands, and nobody has it: whoever asked is told what to do about it.
    let unread = |failure: Failure| {
        let next = format!(
            "Token {0} stands all the same: take it back with `quorate token revoke {0}`, and make another",
            info.id
        );
        failure.after(&next).all_the_same()
    };
    if output.json {
        let mut document = document(&info)?;
        if let Value::Object(fields) = &mut document {
            fields.insert("token".into(), token.into());
        }
        return output.document(&document).map_err(unread);
    }
    let uses = match info.uses {
        0 => "any number of nodes".to_owned(),
        1 => "one node".to_owned(),
        n => format!("{n} nodes"),
    };
    let ends = info
        .expires_in_s
        .map_or_else(|| "until it is revoked".to_owned(), |s| format!("for {}", span(Duration::from_secs(s))));
    let words = format!("Token {} lets {uses} in as a {}, {ends}. It is shown this once.", info.id, info.role.word());
    commands(info.role, &words, client, output, &token).await.map_err(unread)
}

fn document(value: &impl serde::Serialize) -> Result<Value, Failure> {
    serde_json::to_value(value)
        .map_err(|error| Failure::local(format!("the answer cannot be written as JSON: {error}")))
}

async fn list(client: &Client, output: Output) -> Result<(), Failure> {
    let tokens = client.tokens().list().await?;
    if output.json {
        return output.document(&json!({ "tokens": document(&tokens)? }));
    }
    output.line(&render(&tokens))
}

fn render(tokens: &[TokenInfo]) -> String {
    let rows = tokens
        .iter()
        .map(|token| {
            let ends = match token.expires_in_s {
                None => "never".to_owned(),
                Some(0) => "is over".to_owned(),
                Some(seconds) => format!("in {}", span(Duration::from_secs(seconds))),
            };
            let left = match token.uses_left {
                None => "any".to_owned(),
                Some(left) => format!("{left} of {}", token.uses),
            };
            vec![
                if token.standing { "(standing)".to_owned() } else { token.id.clone() },
                token.role.word().to_owned(),
                ends,
                left,
                if token.valid { "valid" } else { "ended" }.to_owned(),
            ]
        })
        .collect();
    table(&["ID", "ROLE", "ENDS", "USES LEFT", "STATE"], &[], rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_says_which_tokens_still_let_somebody_in() {
        let standing = TokenInfo { role: NodeRole::Manager, standing: true, valid: true, ..TokenInfo::default() };
        let made = TokenInfo {
            id: "abcdefgh".into(),
            expires_unix: 100,
            expires_in_s: Some(3_540),
            uses: 20,
            uses_left: Some(19),
            valid: true,
            ..TokenInfo::default()
        };
        let over = TokenInfo { expires_in_s: Some(0), uses_left: None, uses: 0, valid: false, ..made.clone() };
        let text = render(&[standing, made, over]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "(standing)  manager  never    any        valid");
        assert_eq!(lines[2], "abcdefgh    worker   in 59m   19 of 20   valid");
        assert_eq!(lines[3], "abcdefgh    worker   is over  any        ended");
    }
}
