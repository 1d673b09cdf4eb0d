"""Does decoding a random z give a digit? An AE, a VAE and a VQ-VAE on MNIST, measured with one yardstick."""
