"""Images and registries: names, logins, copying, and the layout that we push. skopeo and umoci do the transfer."""
