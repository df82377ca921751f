//! What an operator sees: health and numbers. Each tells what is so, and agrees with the others.
#![allow(clippy::unwrap_used)]

mod health;
mod numbers;
