//! Opens a page of the harness in a browser, where there is one.
#![allow(dead_code, clippy::unwrap_used, clippy::print_stdout, reason = "shared by tests, which fail loudly")]

use std::path::Path;
use std::process::Command;

/// The page needs nothing from any network, its script comes to its end, and all charts are drawn.
pub(crate) fn drawn(page: &Path) {
    let text = std::fs::read_to_string(page).unwrap();
    for word in ["http://", "https://", "src=", "<link", "@import"] {
        assert!(!text.contains(word), "the page asks for something: {word}");
    }
    let Some(browser) = ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find(|name| Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success()))
    else {
        println!("SKIP: there is no Chromium here that could open the page");
        return;
    };
    let profile = page.with_extension("profile");
    let mut command = Command::new("timeout");
    command.args(["120", browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]);
    let address = format!("file://{}", page.display());
    let output = command.arg(format!("--user-data-dir={}", profile.display())).arg(address).output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(shown.contains("data-drawn=\"yes\""), "the script of the page did not come to its end: {output:?}");
    assert_eq!(shown.matches("<svg").count(), 3, "three charts");
    assert!(shown.contains("leads in term"), "no leadership was drawn");
}
