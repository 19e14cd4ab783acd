mod extraction;
mod library;
mod patterns;
