"""Is damage prevented by holding honesty-critical neurons, on a pretrained model?"""
