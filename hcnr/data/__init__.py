"""From what people have in files to tokens: records, samples, what a repair is measured on."""
